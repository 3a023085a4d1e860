"""Two probes for any sequence model, ours or yours: does an output see a later input?

``assert_causal`` is a proof by perturbation for one set of weights: run it in float64 and with weights
away from their initial values, because many layers leak only once they are trained.
``first_token_loss`` needs no gradient and no access to the inside: a next-token model that copies its
target has a loss near 0 at position 0, where an honest one can only know the unigram statistics.

    >>> assert_causal(model.double(), tokens_BT, vocab_size=257)
    >>> first_token_loss(model, validation_batches)
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class CausalityError(AssertionError):
    """An output depends on a later input.

    Attributes:
        position: the first output that moved.
        changed: the input that was changed, later than ``position``.
        amount: how far it moved, relative to the largest output.
    """

    def __init__(self, position: int, changed: int, amount: float) -> None:
        super().__init__(
            f"output {position} sees the future: changing input {changed} moved it by {amount:.3g} "
            "of the largest output"
        )
        self.position = position
        self.changed = changed
        self.amount = amount


def _perturb(inputs: Tensor, position: int, vocab_size: int | None, generator: torch.Generator) -> Tensor:
    changed = inputs.clone()
    if inputs.is_floating_point():
        noise = torch.randn(inputs[:, position].shape, generator=generator, dtype=torch.float64)
        changed[:, position] += noise.to(inputs)
        return changed
    size = int(inputs.max()) + 1 if vocab_size is None else vocab_size
    if size < 2:
        raise ValueError("nothing to change a token into: pass vocab_size, which must be at least 2")
    shift = torch.randint(1, size, inputs[:, position].shape, generator=generator).to(inputs)
    changed[:, position] = (inputs[:, position] + shift) % size
    return changed


@torch.no_grad()
def assert_causal(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    vocab_size: int | None = None,
    positions: Iterable[int] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check that changing an input never moves an earlier output.

    Nothing is randomised but the change itself: the weights, the mode and the dtype are yours. A module in
    training mode is put into evaluation mode for the check and put back, or dropout would look like a leak.

    Args:
        model: maps ``inputs`` to outputs of shape (B, T, ...); a tuple's first element is taken.
        inputs: token ids (B, T), integer, or features (B, T, ...), floating.
        vocab_size: ids that a token may be changed into are below it (default: the largest id seen).
        positions: the inputs to change, one after the other (default: all but the first).
        tolerance: largest movement that counts as round-off, relative to the largest output
            (default: 10,000 units in the last place of the output's dtype, which an FFT convolution needs).
        seed: of the change.

    Raises:
        CausalityError: naming the first output that moved, the input that moved it, and by how much.
        ValueError: if there are fewer than two positions, or an output is not finite to begin with.
    """
    length = inputs.shape[1]
    if length < 2:
        raise ValueError(f"causality needs at least two positions, got {length}")
    generator = torch.Generator().manual_seed(seed)
    training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        before = _output(model, inputs)
        scale = float(before.abs().max())
        if not torch.isfinite(before).all():
            raise ValueError("the outputs are not finite even before an input is changed")
        allowed = 1e4 * torch.finfo(before.dtype).eps if tolerance is None else tolerance
        leaks: list[tuple[int, int, float]] = []
        for changed in range(1, length) if positions is None else positions:
            after = _output(model, _perturb(inputs, changed, vocab_size, generator))
            moved_BT = (after - before).abs().flatten(2).amax(dim=(0, 2)) if before.ndim > 2 else None
            moved_T = (after - before).abs().amax(dim=0) if moved_BT is None else moved_BT
            leaked = (~(moved_T[:changed] <= allowed * scale)).nonzero()
            if len(leaked):
                first = int(leaked[0])
                leaks.append((first, changed, float(moved_T[first]) / max(scale, 1e-300)))
        if leaks:
            raise CausalityError(*min(leaks))
    finally:
        if training and isinstance(model, torch.nn.Module):
            model.train()


def _output(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    output = model(inputs)
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def first_token_loss(model: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> float:
    """Mean loss in nats of a next-token model at position 0: given one token, how well is the second known?

    Compare with the entropy of the second token given the first in your data. Far below it, the model reads
    its target; published spectral layers reach 0.003.

    Args:
        model: maps int64 ids (B, T) to logits (B, T, V); its mode is left as it is.
        batches: int64 rows (B, T + 1), whose first T tokens are fed and whose second token is the target.

    Returns:
        The mean over all rows, in nats.

    Raises:
        ValueError: if there is no row of at least two tokens.
    """
    total = 0.0
    rows = 0
    for batch in batches:
        if batch.shape[1] >= 2:
            logits = _output(model, batch[:, :-1])[:, 0].double()
            total += float(torch.nn.functional.cross_entropy(logits, batch[:, 1], reduction="sum"))
            rows += len(batch)
    if rows == 0:
        raise ValueError("first_token_loss needs at least one row of two tokens or more")
    return total / rows
