"""Check before every report: compared implementations must compute the same function."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks import baselines, encoders
from fftnet.model.mixers import build_mixer

Module = TypeVar("Module", bound=nn.Module)
TOLERANCE = 1e-3
"""Largest difference in float32, relative to the norm of what is compared."""
BF16_TOLERANCE = 0.05
"""Largest relative difference with bf16 matrix products, whose numbers have 8 bits."""
BATCH = 2
TOKENS = 67
WIDTH = 32
HEADS = 4


class ParityError(Exception):
    """Two implementations that do not agree, in one sentence."""


def check() -> None:
    """Compare all equivalent implementations in values and gradients, at a small size.

    Raises:
        ParityError: naming the first pair that differs and by how much.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for bins in (baselines.BINS, 2 * baselines.BINS):
            _causal_op(bins)
        _bidirectional_mixer()
        for name in ("attention", "bidirectional_attention"):
            _attention(name)
        for side in baselines.LANGUAGE_MODELS:
            _decoding(side)
            _bf16(side)


def require(
    what: str, actual: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float = TOLERANCE
) -> None:
    """Compare tensors in pairs.

    Raises:
        ParityError: if a pair differs by more than the tolerance, relative to the norm of the expected one.
    """
    for one, other in zip(actual, expected, strict=True):
        off = float((one - other).norm() / other.norm().clamp(min=1e-12))
        # Written so that NaN fails, too.
        if not off <= tolerance:
            raise ParityError(
                f"nothing is reported: {what} differ by {off:.2g} of their size, more than {tolerance:g}"
            )


def _outcome(
    function: Callable[..., Tensor], inputs: list[Tensor], weights: Iterable[Tensor]
) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    # A fixed gradient that differs at every output.
    upstream = torch.linspace(-1, 1, y.numel()).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, [*leaves, *weights], upstream)]


def _causal_op(bins: int) -> None:
    inputs = baselines.op_inputs(BATCH, TOKENS, WIDTH, HEADS, bins)
    ours = _outcome(baselines.ours_keyed_mix, inputs, [])
    eager = _outcome(baselines.eager_keyed_mix, inputs, [])
    require("our causal operator and its eager version", ours, eager)


@torch.no_grad()
def perturbed(module: Module, size: float = 0.2) -> Module:
    """Add noise to all parameters: at its start values a model hardly depends on its state."""
    for parameter in module.parameters():
        parameter.add_(size * torch.randn_like(parameter))
    return module


def _bidirectional_mixer() -> None:
    mixer = encoders.spectral_mixer(WIDTH, HEADS)
    weights = list(perturbed(mixer).parameters())
    inputs = [torch.randn(BATCH, TOKENS, WIDTH)]
    ours = _outcome(mixer, inputs, weights)
    eager = _outcome(lambda x: encoders.eager_spectral_mix(mixer, x), inputs, weights)
    require("our bidirectional mixer and its eager version", ours, eager)


def _attention(name: str) -> None:
    mixer = build_mixer(name, WIDTH, HEADS)
    weights = list(mixer.parameters())
    inputs = [torch.randn(BATCH, TOKENS, WIDTH)]
    fused = _outcome(mixer, inputs, weights)
    eager = _outcome(lambda x: baselines.eager_attention(mixer, x), inputs, weights)
    require(f"{name} and a direct softmax", fused, eager)


@torch.no_grad()
def _decoding(side: str) -> None:
    model = baselines.language_model(side, WIDTH, HEADS, layers=2)
    perturbed(model)
    text = torch.randint(0, baselines.VOCABULARY, (BATCH, TOKENS))
    # Half of the text in chunks, half token by token: all ways of reading.
    half = TOKENS // 2
    logits, state = model.prefill(text[:, :half], chunk_size=16)
    pieces = [logits]
    for position in range(half, TOKENS):
        logits_BV, state = model.step(text[:, position], state)
        pieces.append(logits_BV[:, None])
    name = baselines.LANGUAGE_MODELS[side]
    require(f"decode steps and the whole text through {name}", [torch.cat(pieces, dim=1)], [model(text)])


@torch.no_grad()
def _bf16(side: str) -> None:
    model = perturbed(baselines.language_model(side, WIDTH, HEADS, layers=2))
    text = torch.randint(0, baselines.VOCABULARY, (BATCH, TOKENS))
    with torch.autocast(text.device.type, torch.bfloat16):
        logits = model(text)
    name = baselines.LANGUAGE_MODELS[side]
    require(f"bf16 and float32 of {name}", [logits.float()], [model(text)], BF16_TOLERANCE)
