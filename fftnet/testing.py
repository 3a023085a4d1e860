"""Tests of causality for any sequence model: no output may depend on a later input.

``assert_causal`` perturbs inputs and compares outputs. Run it in float64 and with weights away from their
initial values, because many layers leak only after training. ``first_token_loss`` needs only logits.

    >>> assert_causal(model.double(), tokens_BT, vocab_size=257)
    >>> first_token_loss(model, validation_batches)
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
HALF_SENTENCE = "rounding in {} hides leaks: check the model in torch.float32 or torch.float64"
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-10}
"""Largest relative change of an output that counts as round-off, by dtype. An FFT over the sequence needs
this much: it mixes the round-off of all positions."""
NOISE_FACTOR = 10.0
"""Largest change that counts as noise, in multiples of the largest change between runs on equal inputs."""
LARGEST_NOISE = 1e-3
"""Largest relative noise, after ``NOISE_FACTOR``, with which a leak can still be seen."""


class CausalityError(AssertionError):
    """An output depends on a later input.

    ``position`` is the first output that changed, ``changed`` the later input, and ``amount`` the largest
    change at ``position``, relative to the size of the output.
    """

    def __init__(self, position: int, changed: int, amount: float) -> None:
        super().__init__(
            f"output {position} sees the future: changing input {changed} moved it by {amount:.3g} "
            "of its size"
        )
        self.position = position
        self.changed = changed
        self.amount = amount


@torch.no_grad()
def assert_causal(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    *,
    vocab_size: int | None = None,
    positions: Iterable[int] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check that changing an input never changes an earlier output.

    A module runs in evaluation mode, since dropout would look like a leak; the modes of all its parts are
    restored. Weights and dtype are used as they are.

    An output may change by ``tolerance`` times its size, plus ten times the change between runs on equal
    inputs. Its size is its magnitude, or the lower quartile of its row if larger.

    Args:
        model: maps ``inputs`` to outputs (B, T, ...). The first element of a tuple is used, and the
            ``logits`` of any other object.
        inputs: token ids (B, T), integer, or features (B, T, ...), floating; at least two positions.
        vocab_size: changed tokens are ids below it (None: up to the largest id in ``inputs``).
        positions: inputs to change, one at a time (None: all but the first).
        tolerance: largest relative change that counts as round-off (None: 5e-5 in float32, 1e-10 in float64).
        seed: random seed of the changes.

    Raises:
        CausalityError: naming the first output that changed, the changed input, and the amount.
        ValueError: if the model computes in float16 or bfloat16, or its outputs have another shape, are not
            finite or differ too much between runs on equal inputs.
        TypeError: if the model returns no tensor.
    """
    length = inputs.shape[1]
    if length < 2:
        raise ValueError(f"causality needs at least two positions, got {length}")
    _refuse_half(model, inputs)
    generator = torch.Generator().manual_seed(seed)
    with _evaluating(model):
        before_BTC = _output(model, inputs)
        _check(before_BTC, inputs)
        if tolerance is None:
            tolerance = TOLERANCE.get(before_BTC.dtype, TOLERANCE[torch.float64])
        size_BTC = _sizes(before_BTC)
        tolerance += _noise(model, inputs, before_BTC, size_BTC)
        leaks: list[tuple[int, int, float]] = []
        for changed in range(1, length) if positions is None else positions:
            after_BTC = _output(model, _perturb(inputs, changed, vocab_size, generator))
            change_T = _change(after_BTC, before_BTC, size_BTC)[:changed]
            # Not `change_T > tolerance`, which would be False for NaN.
            leaked = (~(change_T <= tolerance)).nonzero()
            if len(leaked):
                first = int(leaked[0])
                leaks.append((first, changed, float(change_T[first])))
        if leaks:
            raise CausalityError(*min(leaks))


@torch.no_grad()
def first_token_loss(model: Callable[[Tensor], Any], batches: Iterable[Tensor]) -> float:
    """Return the mean loss of a next-token model at position 0, in nats.

    A model that copies its target has a loss near 0 there. An honest one can only know the statistics of the
    second token given the first, so compare with their entropy; published spectral layers reach 0.003.

    Args:
        model: maps int64 ids (B, T) to logits (B, T, V), as for ``assert_causal``; its mode is not changed.
        batches: int64 rows (B, T + 1); the first T tokens are the input, the second token is the target.
    """
    total = 0.0
    rows = 0
    for batch in batches:
        if batch.shape[1] >= 2:
            logits = _output(model, batch[:, :-1])[:, 0].double()
            total += float(nn.functional.cross_entropy(logits, batch[:, 1], reduction="sum"))
            # Batches may have different numbers of rows, so sums are divided at the end.
            rows += len(batch)
    if rows == 0:
        raise ValueError("first_token_loss needs at least one row of two tokens or more")
    return total / rows


def _output(model: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    output = model(inputs)
    output = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise TypeError(
            "the model must return a tensor, a tuple that begins with one or an object with logits, "
            f"got {type(output).__name__}"
        )
    return torch.view_as_real(output) if output.is_complex() else output


def _refuse_half(model: Callable[[Tensor], Any], inputs: Tensor) -> None:
    """Refuse dtypes whose rounding hides small leaks, also under autocast."""
    tensors = [inputs, *(model.parameters() if isinstance(model, nn.Module) else [])]
    half = next((x.dtype for x in tensors if x.dtype in HALF), None)
    device = inputs.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
    if half is not None:
        raise ValueError(HALF_SENTENCE.format(half))


def _check(output_BTC: Tensor, inputs: Tensor) -> None:
    if output_BTC.shape[:2] != inputs.shape[:2]:
        raise ValueError(
            f"outputs must have the shape (B, T, ...) with B, T = {tuple(inputs.shape[:2])}, "
            f"got {tuple(output_BTC.shape)}"
        )
    if output_BTC.dtype in HALF:
        raise ValueError(HALF_SENTENCE.format(output_BTC.dtype))
    if not torch.isfinite(output_BTC).all():
        raise ValueError("the outputs are not finite even before an input is changed")


def _noise(model: Callable[[Tensor], Any], inputs: Tensor, before_BTC: Tensor, size_BTC: Tensor) -> float:
    """Return the change that counts as noise, from runs on equal inputs."""
    noise = max(float(_change(_output(model, inputs), before_BTC, size_BTC).max()) for _ in range(3))
    if not noise * NOISE_FACTOR <= LARGEST_NOISE:
        raise ValueError(
            f"two runs on equal inputs differ by {noise:.3g} of an output, at most "
            f"{LARGEST_NOISE / NOISE_FACTOR:.0e} is allowed: switch off dropout, sampling and other noise"
        )
    return noise * NOISE_FACTOR


@contextmanager
def _evaluating(model: Callable[[Tensor], Any]) -> Iterator[None]:
    # Not model.eval(): parts may have different modes, which must come back.
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def _perturb(inputs: Tensor, position: int, vocab_size: int | None, generator: torch.Generator) -> Tensor:
    changed = inputs.clone()
    if inputs.is_floating_point():
        # As large as the features themselves, whatever their unit.
        noise = torch.randn(inputs[:, position].shape, generator=generator, dtype=torch.float64)
        changed[:, position] += (noise * (float(inputs.std()) or 1.0)).to(inputs)
        return changed
    size = int(inputs.max()) + 1 if vocab_size is None else vocab_size
    if size < 2:
        raise ValueError("nothing to change a token into: pass vocab_size, which must be at least 2")
    # A shift of 1 to size - 1 changes every token.
    shift = torch.randint(1, size, inputs[:, position].shape, generator=generator).to(inputs)
    changed[:, position] = (inputs[:, position] + shift) % size
    return changed


def _sizes(output_BTC: Tensor) -> Tensor:
    """Return the size of each output: its magnitude, or the lower quartile of its row if larger.

    The quartile, without zeros, keeps the tolerance of small outputs above round-off. It is not the mean or
    maximum: a few large outputs would hide leaks in all others.
    """
    magnitude_BTC = output_BTC.double().abs()
    rows_BN = magnitude_BTC.flatten(1)
    # Outputs that are exactly 0, as after a ReLU, say nothing about the size of the others.
    rows_BN = rows_BN.masked_fill(rows_BN == 0, torch.nan)
    median_B1 = rows_BN.nanmedian(dim=1, keepdim=True).values
    quartile_B = rows_BN.masked_fill(rows_BN > median_B1, torch.nan).nanmedian(dim=1).values.nan_to_num(1.0)
    return torch.maximum(magnitude_BTC, quartile_B.view(-1, *[1] * (output_BTC.ndim - 1)))


def _change(after_BTC: Tensor, before_BTC: Tensor, size_BTC: Tensor) -> Tensor:
    """Return the largest relative change at each position, (T,)."""
    change_BTC = (after_BTC.double() - before_BTC.double()).abs() / size_BTC
    return change_BTC.transpose(0, 1).flatten(1).amax(dim=1)
