"""Two probes for any sequence model, ours or yours: does an output see a later input?

``assert_causal`` is a proof by perturbation for one set of weights: run it in float64 and with weights
away from their initial values, because many layers leak only once they are trained.
``first_token_loss`` needs no gradient and no access to the inside: a next-token model that copies its
target has a loss near 0 at position 0, where an honest one can only know the unigram statistics.

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
"""Largest movement that counts as round-off, by the dtype of the outputs. An FFT over the sequence needs it,
which mixes the round-off of all positions."""
RERUNS = 3
"""Runs on equal inputs that measure the noise of the model itself."""
NOISE_FACTOR = 10.0
"""Movement that counts as noise, in units of the largest one between runs on equal inputs."""
LARGEST_NOISE = 1e-3
"""Largest relative difference between runs on equal inputs beside which a leak can still be seen."""


class CausalityError(AssertionError):
    """An output depends on a later input.

    Attributes:
        position: the first output that moved.
        changed: the input that was changed, later than ``position``.
        amount: largest movement at ``position``, relative to the size of the output that moved.
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
    """Check that changing an input never moves an earlier output.

    Nothing is randomised but the change itself: weights and dtype are yours. A module runs in evaluation mode
    for the check, or dropout would look like a leak; afterwards all its parts have their modes back.

    An output may move by ``tolerance`` times its size, plus ten times what outputs move between runs on equal
    inputs. Its size is its magnitude, or the lower quartile of its row if that is larger: so large outputs
    hide no leak in others.

    Args:
        model: maps ``inputs`` to outputs of shape (B, T, ...). Of a tuple the first element is taken, of any
            other object its ``logits``.
        inputs: token ids (B, T), integer, or features (B, T, ...), floating.
        vocab_size: ids that a token may be changed into are below it (default: the largest id seen).
        positions: the inputs to change, one after the other (default: all but the first).
        tolerance: largest movement that counts as round-off, relative to the size of an output
            (default: 5e-5 for outputs in float32, 1e-10 in float64).
        seed: of the change.

    Raises:
        CausalityError: naming the first output that moved, the input that moved it, and by how much.
        ValueError: if there are fewer than two positions, the model computes in float16 or bfloat16, or its
            outputs have another shape, are not finite or differ between runs on equal inputs.
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
        noise = max(float(_moved(_output(model, inputs), before_BTC, size_BTC).max()) for _ in range(RERUNS))
        if not noise * NOISE_FACTOR <= LARGEST_NOISE:
            raise ValueError(
                f"two runs on equal inputs differ by {noise:.3g} of an output, at most "
                f"{LARGEST_NOISE / NOISE_FACTOR:.0e} is allowed: switch off dropout, sampling and other noise"
            )
        leaks: list[tuple[int, int, float]] = []
        for changed in range(1, length) if positions is None else positions:
            after_BTC = _output(model, _perturb(inputs, changed, vocab_size, generator))
            moved_T = _moved(after_BTC, before_BTC, size_BTC)[:changed]
            # Written so that NaN is a leak.
            leaked = (~(moved_T <= tolerance + NOISE_FACTOR * noise)).nonzero()
            if len(leaked):
                first = int(leaked[0])
                leaks.append((first, changed, float(moved_T[first])))
        if leaks:
            raise CausalityError(*min(leaks))


@torch.no_grad()
def first_token_loss(model: Callable[[Tensor], Any], batches: Iterable[Tensor]) -> float:
    """Mean loss in nats of a next-token model at position 0: given one token, how well is the second known?

    Compare with the entropy of the second token given the first in your data. Far below it, the model reads
    its target; published spectral layers reach 0.003.

    Args:
        model: maps int64 ids (B, T) to logits (B, T, V), as for ``assert_causal``; its mode is left as it is.
        batches: int64 rows (B, T + 1), whose first T tokens are fed and whose second token is the target.

    Returns:
        The mean over all rows, in nats.

    Raises:
        ValueError: if there is no row of at least two tokens.
        TypeError: if the model returns no tensor.
    """
    total = 0.0
    rows = 0
    for batch in batches:
        if batch.shape[1] >= 2:
            logits = _output(model, batch[:, :-1])[:, 0].double()
            total += float(nn.functional.cross_entropy(logits, batch[:, 1], reduction="sum"))
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
    """Refuse what rounds so coarsely that a small leak is lost."""
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


@contextmanager
def _evaluating(model: Callable[[Tensor], Any]) -> Iterator[None]:
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
        noise = torch.randn(inputs[:, position].shape, generator=generator, dtype=torch.float64)
        changed[:, position] += (noise * (float(inputs.std()) or 1.0)).to(inputs)
        return changed
    size = int(inputs.max()) + 1 if vocab_size is None else vocab_size
    if size < 2:
        raise ValueError("nothing to change a token into: pass vocab_size, which must be at least 2")
    shift = torch.randint(1, size, inputs[:, position].shape, generator=generator).to(inputs)
    changed[:, position] = (inputs[:, position] + shift) % size
    return changed


def _sizes(output_BTC: Tensor) -> Tensor:
    """Size of each output: its magnitude, or the lower quartile of its row (zeros left out) if larger."""
    magnitude_BTC = output_BTC.double().abs()
    rows_BN = magnitude_BTC.flatten(1)
    rows_BN = rows_BN.masked_fill(rows_BN == 0, torch.nan)
    median_B1 = rows_BN.nanmedian(dim=1, keepdim=True).values
    quartile_B = rows_BN.masked_fill(rows_BN > median_B1, torch.nan).nanmedian(dim=1).values.nan_to_num(1.0)
    return torch.maximum(magnitude_BTC, quartile_B.view(-1, *[1] * (output_BTC.ndim - 1)))


def _moved(after_BTC: Tensor, before_BTC: Tensor, size_BTC: Tensor) -> Tensor:
    """Largest movement at each position, relative to the size of the output that moved: (T,)."""
    moved_BTC = (after_BTC.double() - before_BTC.double()).abs() / size_BTC
    return moved_BTC.transpose(0, 1).flatten(1).amax(dim=1)
