"""What the rows of a step leave for the next one: handed on, put into checkpoints, dealt out again."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.protocols import Batch, Losses, Objective, RowStates, StatefulObjective
from fftnet.training.accelerator import TrainingError

CARRIED = "carried."
"""Prefix of the names of these tensors in a checkpoint."""


class Carried(NamedTuple):
    """The states of one process's rows, as a step has left them."""

    num_rows: int
    """Rows of the whole run; those that only fill up its micro-batches are none of them."""
    parts: tuple[RowStates, ...]
    """One for each micro-batch."""

    def cpu(self) -> "Carried":
        """The same on the CPU."""
        parts = ({name: tensor.cpu() for name, tensor in part.items()} for part in self.parts)
        return Carried(self.num_rows, tuple(parts))


def losses_and_state(
    objective: Objective, model: nn.Module, batch: Batch, state: RowStates | None
) -> tuple[Losses, RowStates | None]:
    """Losses of a micro-batch, and what its rows leave for the next; None where rows do not go on.

    Args:
        objective: a stateful one, if rows go on.
        model: that is trained.
        batch: rows of this process.
        state: what these rows have left; None, or a batch that is ``fresh``, begins anew.

    Raises:
        TrainingError: if rows go on, but the objective knows no state.
    """
    if batch.fresh is None:
        return objective(model, batch), None
    if not isinstance(objective, StatefulObjective):
        name = getattr(objective, "__name__", type(objective).__name__)
        raise TrainingError(f"rows of the data go on from a state, and {name} knows none: use carry_state 0")
    return objective.carry(model, batch, None if batch.fresh else state)


def join(carried: Sequence[Carried]) -> dict[str, Tensor]:
    """The states of all rows of a run, in the order of its batches, under the names of a checkpoint.

    Args:
        carried: of every process, in their order; left as they are.
    """
    parts = [part for each in carried for part in each.parts]
    rows = carried[0].num_rows
    return {f"{CARRIED}{name}": torch.cat([part[name] for part in parts])[:rows] for name in parts[0]}


def deal_out(tensors: Mapping[str, Tensor], rank: int, world: int, micro_batches: int) -> Carried | None:
    """What ``join`` gave, for the rows of one process of as many as there are now.

    Args:
        tensors: those of a checkpoint, others among them.
        rank: of the process.
        world: processes.
        micro_batches: of each.

    Returns:
        States on the device of ``tensors``, dealt out as ``fftnet.training.sharding.shard`` deals out rows,
        and filled up with copies of the last one; None where the checkpoint holds none.
    """
    found = {name.removeprefix(CARRIED): x for name, x in tensors.items() if name.startswith(CARRIED)}
    if not found:
        return None
    rows = len(next(iter(found.values())))
    size = -(-rows // (world * micro_batches))
    first = rank * micro_batches * size
    parts = []
    for number in range(micro_batches):
        start = first + number * size
        index = torch.arange(start, start + size).clamp(max=rows - 1)
        parts.append({name: tensor[index] for name, tensor in found.items()})
    return Carried(rows, tuple(parts))
