"""The gate before every report: sides that are compared must compute the same function."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from benchmarks import sides
from fftnet.model.mixers.attention import AttentionMixer
from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops import attention

TOLERANCE = 1e-3
"""Largest difference in float32, relative to the norm of what is compared."""
Compared = Callable[..., Tensor]
BATCH, TOKENS, WIDTH, HEADS = 2, 67, 32, 4


class ParityError(Exception):
    """Two sides do not agree: one sentence that names them."""


def check() -> None:
    """Compare all sides that claim to be the same, in values and gradients, at a small size.

    Raises:
        ParityError: naming the first pair that differs and by how much.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _causal_op()
        _bidirectional_mixer()
        _attention()
        for name in sides.LANGUAGE_MODELS.values():
            _decoding(name)


def _require(what: str, actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        off = float((one - other).norm() / other.norm().clamp(min=1e-12))
        if not off <= TOLERANCE:
            raise ParityError(
                f"nothing is reported: {what} differ by {off:.2g} of their size, more than {TOLERANCE:g}"
            )


def _outcome(function: Compared, inputs: list[Tensor], weights: Iterable[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    upstream = torch.linspace(-1, 1, y.numel()).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, [*leaves, *weights], upstream)]


def _causal_op() -> None:
    inputs = sides.op_inputs(BATCH, TOKENS, WIDTH, HEADS)
    ours = _outcome(sides.ours_causal_mix, inputs, [])
    eager = _outcome(lambda *x: sides.eager_causal_mix(*x, floor=sides.EPS), inputs, [])
    _require("our causal operator and its eager version", ours, eager)


def _moved(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def _bidirectional_mixer() -> None:
    mixer = SpectralMixer(WIDTH, HEADS, SpectralConfig(num_anchors=sides.ANCHORS))
    weights, inputs = list(_moved(mixer).parameters()), [torch.randn(BATCH, TOKENS, WIDTH)]
    ours = _outcome(mixer, inputs, weights)
    eager = _outcome(lambda x: sides.eager_spectral_mix(mixer, x), inputs, weights)
    _require("our bidirectional mixer and its eager version", ours, eager)


def _attention() -> None:
    mixer = AttentionMixer(WIDTH, HEADS)
    weights, inputs = list(mixer.parameters()), [torch.randn(BATCH, TOKENS, WIDTH)]

    def direct(x_BTD: Tensor) -> Tensor:
        q, k, v = mixer.project_in(x_BTD).unflatten(-1, (3, HEADS, -1)).unbind(dim=2)
        position = torch.arange(TOKENS)
        q, k = attention.rotate(q, position[None]), attention.rotate(k, position[None])
        score = torch.einsum("bthd,bshd->bhts", q, k) / (WIDTH // HEADS) ** 0.5
        weight = score.masked_fill(position > position[:, None], -torch.inf).softmax(dim=-1)
        return mixer.project_out(torch.einsum("bhts,bshd->bthd", weight, v).flatten(2))

    _require(
        "attention and a direct softmax", _outcome(mixer, inputs, weights), _outcome(direct, inputs, weights)
    )


@torch.no_grad()
def _decoding(name: str) -> None:
    model = sides.language_model(name, WIDTH, HEADS, layers=2)
    _moved(model)
    text = torch.randint(0, sides.VOCABULARY, (BATCH, TOKENS))
    half = TOKENS // 2
    logits, state = model.prefill(text[:, :half], chunk_size=16)
    pieces = [logits]
    for position in range(half, TOKENS):
        logits_BV, state = model.step(text[:, position], state)
        pieces.append(logits_BV[:, None])
    _require(f"decode steps and the whole text through {name}", [torch.cat(pieces, dim=1)], [model(text)])
