"""Rows of a batch and their recurrent states, split among processes and micro-batches.

Every process reads the batch of the whole run and works on its own rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.protocols import Batch, Batches, Losses, Objective, RowStates, StatefulObjective
from fftnet.training.accelerator import TrainingError

CARRIED = "carried."
"""Prefix of the names of carried states in a checkpoint."""


def _starts(num_rows: int, rank: int, world: int, micro_batches: int) -> tuple[range, int]:
    """Return the first row of each micro-batch of a process, and the number of rows in each."""
    # Rounded up: the last micro-batches may be filled up or empty.
    size = -(-num_rows // (world * micro_batches))
    first = rank * micro_batches * size
    return range(first, first + micro_batches * size, size), size


def shard(batch: Batch, rank: int, world: int, micro_batches: int = 1) -> list[Batch]:
    """Return the rows of one process, in micro-batches of equal size.

    After the last row of the batch, rows of zeros that do not count in the loss fill them up. Their attention
    mask is True, because some models can't read a row of padding only.
    """
    starts, size = _starts(batch.num_rows, rank, world, micro_batches)
    mask = batch.attention_mask
    return [
        batch._replace(
            inputs=_padded(batch.inputs, start, size),
            targets=_padded(batch.targets, start, size),
            loss_mask=_padded(batch.loss_mask, start, size),
            attention_mask=None if mask is None else _padded(mask, start, size, filler=1),
        )
        for start in starts
    ]


def _padded(tensor: Tensor, first: int, size: int, filler: int = 0) -> Tensor:
    rows = tensor[first : first + size]
    missing = size - len(rows)
    # F.pad takes the padding from the last dimension to the first.
    return F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, missing], value=filler) if missing else rows


class Interrupted(Exception):
    """The run was asked to end."""


class ShardedBatches:
    """Rows of one process from a stream of batches, until the run is asked to end.

    ``stop_requested`` is called before each batch, and must return the same on all processes.
    """

    def __init__(
        self, batches: Batches, rank: int, world: int, stop_requested: Callable[[], bool] = lambda: False
    ) -> None:
        self._batches = batches
        self._rank = rank
        self._world = world
        self._stop_requested = stop_requested
        self.num_batches = batches.num_batches

    def batch(self, epoch: int, index: int) -> Batch:
        """Return as many rows of a batch as every other process; Interrupted ends the run."""
        if self._stop_requested():
            raise Interrupted
        return shard(self._batches.batch(epoch, index), self._rank, self._world)[0]


class Carried(NamedTuple):
    """Recurrent states of one process's rows after a step (truncated backpropagation through time)."""

    num_rows: int
    """Rows of the whole run, without those that fill up micro-batches."""
    parts: tuple[RowStates, ...]
    """States of each micro-batch."""

    def cpu(self) -> "Carried":
        """Return a copy on the CPU."""
        parts = ({name: tensor.cpu() for name, tensor in part.items()} for part in self.parts)
        return Carried(self.num_rows, tuple(parts))


def losses_and_state(
    objective: Objective, model: nn.Module, batch: Batch, state: RowStates | None
) -> tuple[Losses, RowStates | None]:
    """Return the losses of a micro-batch and the states of its rows for the next step, if they continue.

    The states of the step before are ignored if the batch is ``fresh``.
    """
    if batch.fresh is None:
        return objective(model, batch), None
    if not isinstance(objective, StatefulObjective):
        name = getattr(objective, "__name__", type(objective).__name__)
        raise TrainingError(
            f"carry_state above 0 needs an objective with a method carry; {name} has none: use carry_state 0"
        )
    # All rows of a batch start afresh together, so that one flag is enough.
    return objective.carry(model, batch, None if batch.fresh else state)


def join(carried: Sequence[Carried]) -> dict[str, Tensor]:
    """Join the states of all processes, in the order of ranks, under their names in a checkpoint."""
    parts = [part for each in carried for part in each.parts]
    # Rows that fill up micro-batches are at the end, and are cut off.
    rows = carried[0].num_rows
    return {f"{CARRIED}{name}": torch.cat([part[name] for part in parts])[:rows] for name in parts[0]}


def deal_out(tensors: Mapping[str, Tensor], rank: int, world: int, micro_batches: int) -> Carried | None:
    """Split the joined states in a checkpoint's tensors as ``shard`` splits rows; None if it has none.

    Copies of the last state fill the parts up.
    """
    found = {name.removeprefix(CARRIED): x for name, x in tensors.items() if name.startswith(CARRIED)}
    if not found:
        return None
    rows = len(next(iter(found.values())))
    starts, size = _starts(rows, rank, world, micro_batches)
    # Indices beyond the last row repeat it; `join` drops these rows.
    indices = [torch.arange(start, start + size).clamp(max=rows - 1) for start in starts]
    return Carried(rows, tuple({name: x[index] for name, x in found.items()} for index in indices))
