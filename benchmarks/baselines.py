"""Sides of a comparison: FFTNet, its eager PyTorch version, attention, and bounds that no layer can beat.

All calls of a case read the same tokens, and all or none include projections. This file and ``encoders``
build all models, mixers and inputs of the benchmarks.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import OURS
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet, State
from fftnet.model.mixers.addressed_spectral import AddressedSpectralConfig, AddressedSpectralMixer
from fftnet.model.mixers.attention import AttentionMixer, AttentionState, RotaryAttention
from fftnet.ops import attention
from fftnet.ops.keyed_mix import keyed_mix
from fftnet.training.optim import OptimConfig, make_optimizer

FORWARD = "forward"
BOTH = "forward+backward"
TRAIN = "training step"
STEP = "decode step"

EAGER = "eager"
ATTENTION = "attention"
LINEAR = "linear layer"
MORE_BINS = "ours, 32 bins"
PRODUCTS = "own products"
COPY = "memory pass"
PAIR = "rfft+irfft"

BF16 = "bf16"
FLOAT32 = "float32"
"""Dtypes of the matrix products of training."""

LANGUAGE_MODELS = {OURS: "addressed_spectral", ATTENTION: "attention"}
"""Side to the mixer of all its layers."""
BINS = 16
"""Frequency bins of the causal mixer, its default."""
VOCABULARY = 257
"""Number of tokens: bytes, and the end of a text."""

Calls = dict[str, Callable[[], object]]
"""Side to a call that does the work once."""


def eager_keyed_mix(
    v_BTHd: Tensor,
    key_BTH2F: Tensor,
    filter_BTH2F: Tensor,
    clock_BTH: Tensor,
    decay_HF: Tensor,
    frequency_HF: Tensor,
) -> Tensor:
    """Compute ``keyed_mix`` as one would write it first: token by token, complex, with autograd."""
    key_BTHF1 = torch.complex(*key_BTH2F.unbind(dim=3))[..., None]
    filter_BTHF1 = torch.complex(*filter_BTH2F.unbind(dim=3))[..., None]
    pole_BTHF1 = torch.exp(clock_BTH[..., None] * torch.complex(-decay_HF, frequency_HF))[..., None]
    z_BHFd = torch.zeros_like(key_BTHF1[:, 0] * v_BTHd[:, 0, :, None])
    outputs = []
    # Unbind once: the gradient of x[:, t] would be as large as x, for every token.
    tokens = (x.unbind(dim=1) for x in (v_BTHd[:, :, :, None], key_BTHF1, filter_BTHF1, pole_BTHF1))
    for v, key, filter_, pole in zip(*tokens, strict=True):
        # docs/maths.md, section 3: decay and rotate the spectrum, write value times key, read with the
        # filter.
        z_BHFd = pole * z_BHFd + key * v
        outputs.append((filter_ * z_BHFd).real.sum(dim=2))
    return torch.stack(outputs, dim=1)


def eager_attention(mixer: RotaryAttention, x_BTD: Tensor) -> Tensor:
    """Compute attention with rotary positions as one would write it first: the whole matrix of scores."""
    tokens = x_BTD.shape[1]
    q, k, v = mixer.project_in(x_BTD).unflatten(-1, (3, mixer.num_heads, -1)).unbind(dim=2)
    position = torch.arange(tokens)
    # Rotary positions as in the fused mixer, so that both compute the same.
    q = attention.rotate(q, position[None])
    k = attention.rotate(k, position[None])
    # All T x T scores, which fused attention never stores.
    score = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    if mixer.causal:
        score = score.masked_fill(position > position[:, None], -torch.inf)
    return mixer.project_out(torch.einsum("bhts,bshd->bthd", score.softmax(dim=-1), v).flatten(2))


def fourier_pair(x_BTD: Tensor) -> Tensor:
    """Apply the cheapest transform and its inverse."""
    return torch.fft.irfft(torch.fft.rfft(x_BTD, dim=1), n=x_BTD.shape[1], dim=1)


def linear(x_BTD: Tensor, weight_DD: Tensor) -> Tensor:
    """Apply one D x D linear layer."""
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
    # Gradients of all inputs and weights, as inside of a model.
    leaves = [x.requires_grad_() for x in inputs] + ([] if module is None else list(module.parameters()))
    # A random gradient from above, so that backward has as much work as in training.
    upstream = torch.randn_like(inputs[0])
    return lambda: torch.autograd.grad(function(*inputs), leaves, upstream)


def memory_pass(x: Tensor, work: str) -> Callable[[], object]:
    """Make the call that only moves memory: read and write once, backwards read twice and write once."""
    grad = torch.randn_like(x)

    def both() -> None:
        x.clone()
        torch.mul(x, grad)

    return x.clone if work == FORWARD else both


def causal_mixer(width: int, heads: int, bins: int = BINS) -> AddressedSpectralMixer:
    """Return FFTNet's causal mixer."""
    return AddressedSpectralMixer(width, heads, AddressedSpectralConfig(num_bins=bins))


def op_inputs(batch: int, tokens: int, width: int, heads: int, bins: int = BINS) -> list[Tensor]:
    """Return values, keys, filters, clock, decay and frequency as a new layer passes them to the operator."""
    decay, frequency = causal_mixer(width, heads, bins).transform()
    return [
        torch.randn(batch, tokens, heads, width // heads),
        # Keys are small, as the gain of a layer makes them.
        torch.randn(batch, tokens, heads, 2, bins) / bins,
        torch.randn(batch, tokens, heads, 2, bins),
        0.5 + torch.rand(batch, tokens, heads),
        decay.detach().clone(),
        frequency.detach().clone(),
    ]


def ours_keyed_mix(*inputs: Tensor) -> Tensor:
    """Run our operator from an empty state."""
    v_BTHd, _, _, _, decay, _ = inputs
    batch, _, heads, width = v_BTHd.shape
    state = v_BTHd.new_zeros(batch, heads, 2, decay.shape[1], width)
    return keyed_mix(*[*inputs, state])[0]


def op(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """Return the calls of the causal operator alone."""
    inputs = op_inputs(batch, tokens, width, heads)
    x_BTD = torch.randn(batch, tokens, width)
    weight_DD = torch.randn(width, width)
    return {
        OURS: call(ours_keyed_mix, inputs, work),
        # Twice the bins show how time grows with the state.
        MORE_BINS: call(ours_keyed_mix, op_inputs(batch, tokens, width, heads, 2 * BINS), work),
        EAGER: call(eager_keyed_mix, inputs, work),
        LINEAR: call(linear, [x_BTD, weight_DD], work),
        PAIR: call(fourier_pair, [x_BTD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def own_products(mixer: nn.Module, batch: int, tokens: int, work: str) -> Callable[[], object]:
    """Make the call of all linear layers of a mixer, each on as many tokens: a lower bound of its time."""
    layers = [module for module in mixer.modules() if isinstance(module, nn.Linear)]
    # Layers of one width read the same tokens, as in the mixer.
    tokens_of = {layer.in_features: torch.randn(batch, tokens, layer.in_features) for layer in layers}
    inputs = [tokens_of[layer.in_features].detach() for layer in layers]
    # One gradient for each layer's output.
    upstream = [torch.randn(batch, tokens, layer.out_features) for layer in layers]

    def run() -> list[Tensor]:
        return [F.linear(x, layer.weight, layer.bias) for x, layer in zip(inputs, layers, strict=True)]

    if work == FORWARD:
        return torch.no_grad()(run)
    leaves = [x.requires_grad_() for x in inputs]
    # Weights get gradients, too.
    leaves += [parameter for layer in layers for parameter in layer.parameters()]
    return lambda: torch.autograd.grad(run(), leaves, upstream)


def mixer(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """Return the calls of the causal mixer and of attention, each with its projections."""
    x_BTD = torch.randn(batch, tokens, width)
    weight_DD = torch.randn(width, width)
    ours = causal_mixer(width, heads)
    baseline = AttentionMixer(width, heads)
    return {
        OURS: call(ours, [x_BTD], work, ours),
        ATTENTION: call(baseline, [x_BTD], work, baseline),
        PRODUCTS: own_products(ours, batch, tokens, work),
        LINEAR: call(linear, [x_BTD, weight_DD], work),
        COPY: memory_pass(x_BTD.detach(), work),
    }


def language_model(side: str, width: int, heads: int, layers: int) -> FFTNet:
    """Return a language model over bytes whose layers all have the mixer of the side."""
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
    """Return the default model of the commands, or the same with attention."""
    return FFTNet(FFTNetConfig(vocab_size=VOCABULARY, mixers=(LANGUAGE_MODELS[side],)))


def step_of(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    """Make the call of one step of AdamW: loss, gradients, update."""
    optimizer = make_optimizer(model, OptimConfig())

    def step() -> None:
        loss().backward()
        optimizer.step()
        # Gradients are freed, as in training, and allocated again by the next step.
        optimizer.zero_grad()

    return step


def train_step(model: FFTNet, batch: int, tokens: int, precision: str = FLOAT32) -> Callable[[], object]:
    """Make the call of one training step of a language model."""
    tokens_BT = torch.randint(0, VOCABULARY, (batch, tokens + 1))

    def loss() -> Tensor:
        with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=precision == BF16):
            # The matrix products only; the loss is float32 in both.
            logits_BTV = model(tokens_BT[:, :-1])
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())

    return step_of(model, loss)


def train(width: int, heads: int, layers: int, batch: int, tokens: int, precision: str = FLOAT32) -> Calls:
    """Return the training steps of FFTNet and of attention."""
    return {
        side: train_step(language_model(side, width, heads, layers), batch, tokens, precision)
        for side in LANGUAGE_MODELS
    }


def precision(width: int, heads: int, layers: int, batch: int, tokens: int) -> Calls:
    """Return the training steps in bf16 and in float32."""
    return {
        name: train_step(language_model(side, width, heads, layers), batch, tokens, numbers)
        for side in LANGUAGE_MODELS
        for name, numbers in ((side, BF16), (f"{side}, {FLOAT32}", FLOAT32))
    }


def attention_state(model: FFTNet, batch: int, position: int, room: int) -> State:
    """Return a random state of attention at a position: reading the tokens would cost O(T^2)."""
    heads = model.config.num_heads
    shape = (batch, heads, position + room, model.config.d_model // heads)
    return tuple(
        # Keys and values of all earlier tokens, their number and the next position.
        AttentionState(
            torch.randn(shape),
            torch.randn(shape),
            torch.full((batch,), position),
            torch.full((batch,), position),
        )
        for _ in range(model.config.num_layers)
    )


def decode_steps(model: FFTNet, state: State, batch: int, steps: int) -> Callable[[], object]:
    """Make the call that decodes a number of tokens, each time from the last call's state."""
    token_B = torch.randint(0, VOCABULARY, (batch,))

    def run() -> None:
        nonlocal state
        with torch.no_grad():
            for _ in range(steps):
                state = model.step(token_B, state)[1]

    return run
