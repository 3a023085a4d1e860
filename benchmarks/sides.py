"""What is measured: ours, the obvious PyTorch version, attention, and what no such layer can beat.

Each function makes the sides of one suite in one case: name to a call that does the work once. All sides of
a case read the same tokens, and a layer's projections are counted on both sides or on neither.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import OURS
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.mixers.attention import AttentionMixer
from fftnet.model.mixers.causal_spectral import EPS, CausalSpectralConfig, CausalSpectralMixer
from fftnet.model.mixers.fnet import FNetMixer
from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops import causal_mix as prefix
from fftnet.ops import numerics
from fftnet.training.optim import OptimConfig, make_optimizer

FORWARD, BOTH, TRAIN, STEP = "forward", "forward+backward", "training step", "decode step"
EAGER, ATTENTION, LINEAR, COPY, PAIR = "eager", "attention", "linear layer", "memory pass", "rfft+irfft"
ANCHORS = 129
"""Anchor frequencies of the bidirectional filter: the published layer's at 256 tokens."""
BINS = 4
VOCABULARY = 257

Sides = dict[str, Callable[[], object]]


def eager_causal_mix(
    v_BTHd: Tensor,
    filter_BTHF: Tensor,
    decay_HF: Tensor,
    frequency_HF: Tensor,
    bias_HF: Tensor,
    mixing_HF2: Tensor,
    floor: float,
) -> Tensor:
    """:func:`fftnet.ops.causal_mix.causal_mix` as one would first write it, from an empty state.

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
    z = z * (torch.relu(magnitude + bias_HF[..., None]) / magnitude.clamp(min=floor))
    return (z * torch.view_as_complex(mixing_HF2)[..., None]).real.sum(dim=3)


def eager_spectral_mix(mixer: SpectralMixer, x_BTD: Tensor) -> Tensor:
    """The bidirectional layer as the paper writes it: the whole complex transform, complex arithmetic."""
    tokens, heads = x_BTD.shape[1], mixer.filter.base_filter.shape[0]
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


def fourier_pair(x_BTD: Tensor) -> Tensor:
    """The cheapest transform there and back."""
    return torch.fft.irfft(torch.fft.rfft(x_BTD, dim=1), n=x_BTD.shape[1], dim=1)


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


def op_inputs(batch: int, tokens: int, width: int, heads: int) -> list[Tensor]:
    """Values, filter, decay, frequency, bias, mixing: what a layer at its start would hand over."""
    mixer = CausalSpectralMixer(width, heads, CausalSpectralConfig(num_bins=BINS))
    decay_HF, frequency_HF = mixer.transform()
    return [
        torch.randn(batch, tokens, heads, width // heads),
        1 + 0.3 * torch.randn(batch, tokens, heads, BINS),
        decay_HF.detach(),
        frequency_HF.detach().clone(),
        0.1 * torch.randn(heads, BINS),
        mixer.inverse().detach().clone(),
    ]


def ours_causal_mix(*inputs: Tensor) -> Tensor:
    """Our operator from an empty state."""
    v_BTHd, filter_, decay, frequency, bias, mixing = inputs
    batch, _, heads, width = v_BTHd.shape
    state = v_BTHd.new_zeros(batch, decay.shape[1], 2, heads, width)
    return prefix.causal_mix(v_BTHd, filter_, decay, frequency, bias, mixing, state, floor=EPS)[0]


def op(width: int, heads: int, batch: int, tokens: int, work: str) -> Sides:
    """The causal operator alone."""
    inputs = op_inputs(batch, tokens, width, heads)
    x_BTD, weight = torch.randn(batch, tokens, width), torch.randn(width, width)
    return {
        OURS: call(ours_causal_mix, inputs, work),
        EAGER: call(lambda *inputs: eager_causal_mix(*inputs, floor=EPS), inputs, work),
        LINEAR: call(lambda x, w: F.linear(x, w), [x_BTD, weight], work),
        PAIR: call(fourier_pair, [x_BTD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def mixer(width: int, heads: int, batch: int, tokens: int, work: str) -> Sides:
    """The whole causal mixer, with its projections, against attention with its own."""
    x_BTD, weight = torch.randn(batch, tokens, width), torch.randn(width, width)
    ours = CausalSpectralMixer(width, heads, CausalSpectralConfig(num_bins=BINS))
    attention = AttentionMixer(width, heads)
    return {
        OURS: call(ours, [x_BTD], work, ours),
        ATTENTION: call(attention, [x_BTD], work, attention),
        LINEAR: call(lambda x, w: F.linear(x, w), [x_BTD, weight], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def bidirectional(width: int, heads: int, batch: int, tokens: int, work: str) -> Sides:
    """The paper's mixer, which has no projections, against others without."""
    x_BTD = torch.randn(batch, tokens, width)
    ours = SpectralMixer(width, heads, SpectralConfig(num_anchors=ANCHORS))
    fnet = FNetMixer(width)

    def attention(x: Tensor) -> Tensor:
        heads_BHTd = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads_BHTd, heads_BHTd, heads_BHTd).transpose(1, 2).flatten(2)

    return {
        OURS: call(ours, [x_BTD], work, ours),
        EAGER: call(lambda x: eager_spectral_mix(ours, x), [x_BTD], work, ours),
        ATTENTION: call(attention, [x_BTD], work),
        "FNet": call(fnet, [x_BTD], work),
        PAIR: call(fourier_pair, [x_BTD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def language_model(name: str, width: int, heads: int, layers: int) -> FFTNet:
    """A language model over bytes whose layers all have the mixer of that name."""
    return FFTNet(
        FFTNetConfig(
            vocab_size=VOCABULARY,
            d_model=width,
            num_heads=heads,
            num_layers=layers,
            mixers=(name,),
            mixer_configs={"causal_spectral": CausalSpectralConfig(num_bins=BINS)},
        )
    )


LANGUAGE_MODELS = {OURS: "causal_spectral", ATTENTION: "attention"}
"""Side to the mixer of all its layers."""


def train(width: int, heads: int, layers: int, batch: int, tokens: int) -> Sides:
    """One step of training a language model: forward, backward, AdamW."""
    tokens_BT = torch.randint(0, VOCABULARY, (batch, tokens + 1))

    def side(name: str) -> Callable[[], object]:
        model = language_model(name, width, heads, layers)
        optimizer = make_optimizer(model, OptimConfig())

        def step() -> None:
            logits_BTV = model(tokens_BT[:, :-1])
            F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return {side_name: side(name) for side_name, name in LANGUAGE_MODELS.items()}
