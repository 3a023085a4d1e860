"""The sides of a comparison: ours; as baselines the obvious PyTorch version, attention, what no layer beats.

All calls of a case read the same tokens, and a layer's projections are counted in all of them or in none. No
other file of the benchmarks builds a model, a mixer or the inputs of an operator.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import OURS
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet, State
from fftnet.model.mixers.attention import AttentionMixer, AttentionState
from fftnet.model.mixers.causal_spectral import EPS, CausalSpectralConfig, CausalSpectralMixer
from fftnet.model.mixers.fnet import FNetMixer
from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops import attention, numerics
from fftnet.ops.causal_mix import HeadParameters, causal_mix
from fftnet.training.optim import OptimConfig, make_optimizer

FORWARD = "forward"
BOTH = "forward+backward"
TRAIN = "training step"
STEP = "decode step"

EAGER = "eager"
ATTENTION = "attention"
FNET = "FNet"
LINEAR = "linear layer"
COPY = "memory pass"
PAIR = "rfft+irfft"

LANGUAGE_MODELS = {OURS: "causal_spectral", ATTENTION: "attention"}
"""Ours and its baseline to the mixer of all layers."""
ANCHORS = 129
"""Anchor frequencies of the bidirectional filter: the published layer's at 256 tokens."""
BINS = 4
VOCABULARY = 257
"""Bytes, and the end of a text."""

Calls = dict[str, Callable[[], object]]
"""Ours and its baselines: name to a call that does the work once."""


def eager_causal_mix(
    v_BTHd: Tensor,
    filter_BTHF: Tensor,
    decay_HF: Tensor,
    frequency_HF: Tensor,
    bias_HF: Tensor,
    readout_HF2: Tensor,
) -> Tensor:
    """``fftnet.ops.causal_mix.causal_mix`` as one would first write it, from an empty state.

    One zero-padded FFT convolution with the kernel lambda^j of every bin, complex arithmetic, autograd.
    """
    tokens = v_BTHd.shape[1]
    j_T11 = torch.arange(tokens, dtype=v_BTHd.dtype)[:, None, None]
    kernel_THF = torch.polar(torch.exp(-decay_HF * j_T11), frequency_HF * j_T11)
    response = torch.fft.fft(kernel_THF, n=2 * tokens, dim=0)
    values = torch.fft.fft(v_BTHd, n=2 * tokens, dim=1)
    spectrum_BTHFd = torch.fft.ifft(values[:, :, :, None] * response[..., None], dim=1)[:, :tokens]
    z = spectrum_BTHFd * filter_BTHF[..., None]
    magnitude = z.abs()
    z = z * (torch.relu(magnitude + bias_HF[..., None]) / magnitude.clamp(min=EPS))
    return (z * torch.view_as_complex(readout_HF2)[..., None]).real.sum(dim=3)


def eager_spectral_mix(mixer: SpectralMixer, x_BTD: Tensor) -> Tensor:
    """The bidirectional layer as the paper writes it: the whole complex transform, complex arithmetic."""
    tokens = x_BTD.shape[1]
    heads = mixer.num_heads
    k = torch.arange(tokens)
    mirrored = torch.minimum(k, tokens - k)
    bins = tokens // 2 + 1
    filter_BHF = numerics.interpolate_anchors(mixer.filter(x_BTD.mean(dim=1)), bins)[..., mirrored]
    bias_HF = numerics.interpolate_anchors(mixer.activation(), bins)[..., mirrored]
    spectrum_BFHd = torch.fft.fft(x_BTD, dim=1, norm="ortho").unflatten(-1, (heads, -1))
    z = spectrum_BFHd * filter_BHF.transpose(1, 2)[..., None]
    magnitude = z.abs()
    z = z * (torch.relu(magnitude + bias_HF.T[..., None]) / magnitude.clamp(min=mixer.activation.eps))
    return torch.fft.ifft(z.flatten(2), dim=1, norm="ortho").real


def eager_attention(mixer: AttentionMixer, x_BTD: Tensor) -> Tensor:
    """Causal attention with rotary positions as one would first write it: the whole matrix of scores."""
    tokens = x_BTD.shape[1]
    q, k, v = mixer.project_in(x_BTD).unflatten(-1, (3, mixer.num_heads, -1)).unbind(dim=2)
    position = torch.arange(tokens)
    q = attention.rotate(q, position[None])
    k = attention.rotate(k, position[None])
    score = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    weight = score.masked_fill(position > position[:, None], -torch.inf).softmax(dim=-1)
    return mixer.project_out(torch.einsum("bhts,bshd->bthd", weight, v).flatten(2))


def fourier_pair(x_BTD: Tensor) -> Tensor:
    """The cheapest transform there and back."""
    return torch.fft.irfft(torch.fft.rfft(x_BTD, dim=1), n=x_BTD.shape[1], dim=1)


def linear(x_BTD: Tensor, weight_DD: Tensor) -> Tensor:
    """One D x D linear layer."""
    return F.linear(x_BTD, weight_DD)


def call(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], work: str, module: nn.Module | None = None
) -> Callable[[], object]:
    """Make the call that is timed: the function alone, or with the gradients of all inputs and weights.

    The first input has the shape of the output.
    """
    if work == FORWARD:

        def forward() -> None:
            with torch.no_grad():
                function(*inputs)

        return forward
    leaves = [x.requires_grad_() for x in inputs] + ([] if module is None else list(module.parameters()))
    upstream = torch.randn_like(inputs[0])
    return lambda: torch.autograd.grad(function(*inputs), leaves, upstream)


def memory_pass(x: Tensor, work: str) -> Callable[[], object]:
    """Read the values and write the result; backwards, read values and gradient and write a gradient."""
    grad = torch.randn_like(x)

    def both() -> None:
        x.clone()
        torch.mul(x, grad)

    return x.clone if work == FORWARD else both


def causal_mixer(width: int, heads: int) -> CausalSpectralMixer:
    """Our causal mixer."""
    return CausalSpectralMixer(width, heads, CausalSpectralConfig(num_bins=BINS))


def spectral_mixer(width: int, heads: int) -> SpectralMixer:
    """Our bidirectional mixer."""
    return SpectralMixer(width, heads, SpectralConfig(num_anchors=ANCHORS))


def attention_mixer(width: int, heads: int) -> AttentionMixer:
    """Causal attention with its projections."""
    return AttentionMixer(width, heads)


def fnet_mixer(width: int, heads: int) -> FNetMixer:
    """FNet's transform of tokens and channels."""
    return FNetMixer(width, heads)


def op_inputs(batch: int, tokens: int, width: int, heads: int) -> list[Tensor]:
    """Values, filter, decay, frequency, bias, readout: what a layer at its start would hand over."""
    ours = causal_mixer(width, heads)
    decay, frequency = ours.transform()
    return [
        torch.randn(batch, tokens, heads, width // heads),
        1 + 0.3 * torch.randn(batch, tokens, heads, BINS),
        decay.detach().clone(),
        frequency.detach().clone(),
        0.1 * torch.randn(heads, BINS),
        ours.inverse().detach().clone(),
    ]


def ours_causal_mix(*inputs: Tensor) -> Tensor:
    """Our operator from an empty state."""
    v_BTHd, filter_, decay, frequency, bias, readout = inputs
    batch, _, heads, width = v_BTHd.shape
    state = v_BTHd.new_zeros(batch, decay.shape[1], 2, heads, width)
    parameters = HeadParameters(decay, frequency, bias, readout)
    return causal_mix(v_BTHd, filter_, parameters, state, eps=EPS)[0]


def op(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """The causal operator alone."""
    inputs = op_inputs(batch, tokens, width, heads)
    x_BTD = torch.randn(batch, tokens, width)
    weight_DD = torch.randn(width, width)
    return {
        OURS: call(ours_causal_mix, inputs, work),
        EAGER: call(eager_causal_mix, inputs, work),
        LINEAR: call(linear, [x_BTD, weight_DD], work),
        PAIR: call(fourier_pair, [x_BTD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def mixer(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """The whole causal mixer, with its projections, against attention with its own."""
    x_BTD = torch.randn(batch, tokens, width)
    weight_DD = torch.randn(width, width)
    ours = causal_mixer(width, heads)
    baseline = attention_mixer(width, heads)
    return {
        OURS: call(ours, [x_BTD], work, ours),
        ATTENTION: call(baseline, [x_BTD], work, baseline),
        LINEAR: call(linear, [x_BTD, weight_DD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def bidirectional(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """The paper's mixer, which has no projections, against others without."""
    x_BTD = torch.randn(batch, tokens, width)
    ours = spectral_mixer(width, heads)
    fnet = fnet_mixer(width, heads)

    def bare_attention(x: Tensor) -> Tensor:
        heads_BHTd = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads_BHTd, heads_BHTd, heads_BHTd).transpose(1, 2).flatten(2)

    return {
        OURS: call(ours, [x_BTD], work, ours),
        EAGER: call(lambda x: eager_spectral_mix(ours, x), [x_BTD], work, ours),
        ATTENTION: call(bare_attention, [x_BTD], work),
        FNET: call(fnet, [x_BTD], work),
        PAIR: call(fourier_pair, [x_BTD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def language_model(side: str, width: int, heads: int, layers: int) -> FFTNet:
    """A language model over bytes, ours or the baseline: the mixer of all its layers is that of the side."""
    return FFTNet(
        FFTNetConfig(
            vocab_size=VOCABULARY,
            d_model=width,
            num_heads=heads,
            num_layers=layers,
            mixers=(LANGUAGE_MODELS[side],),
        )
    )


def default_model(side: str) -> FFTNet:
    """The model that the commands train unless told otherwise, or the same with attention."""
    return FFTNet(FFTNetConfig(vocab_size=VOCABULARY, mixers=(LANGUAGE_MODELS[side],)))


def train_step(model: FFTNet, batch: int, tokens: int) -> Callable[[], object]:
    """Make the call that does one step of training: forward, backward, AdamW."""
    tokens_BT = torch.randint(0, VOCABULARY, (batch, tokens + 1))
    optimizer = make_optimizer(model, OptimConfig())

    def step() -> None:
        logits_BTV = model(tokens_BT[:, :-1])
        F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train(width: int, heads: int, layers: int, batch: int, tokens: int) -> Calls:
    """One step of training a language model."""
    return {
        side: train_step(language_model(side, width, heads, layers), batch, tokens)
        for side in LANGUAGE_MODELS
    }


def attention_state(model: FFTNet, batch: int, position: int, room: int) -> State:
    """A state of attention as after ``position`` tokens, filled directly: reading them would cost O(T^2)."""
    heads = model.config.num_heads
    shape = (batch, heads, position + room, model.config.d_model // heads)
    return tuple(
        AttentionState(
            torch.randn(shape),
            torch.randn(shape),
            torch.full((batch,), position),
            torch.full((batch,), position),
        )
        for _ in range(model.config.num_layers)
    )


def decode_steps(model: FFTNet, state: State, batch: int, steps: int) -> Callable[[], object]:
    """Make the call that writes so many tokens, each time from where the last call stopped."""
    token_B = torch.randint(0, VOCABULARY, (batch,))

    def run() -> None:
        nonlocal state
        with torch.no_grad():
            for _ in range(steps):
                state = model.step(token_B, state)[1]

    return run
