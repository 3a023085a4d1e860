"""A batch is that of the whole run: every process reads all of it and works on rows of its own."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from fftnet.protocols import Batch, Batches


def shard(batch: Batch, rank: int, world: int, micro_batches: int = 1) -> list[Batch]:
    """One process's rows of a batch.

    Args:
        batch: that of the whole run.
        rank: of the process.
        world: processes.
        micro_batches: parts that a process works on one after the other.

    Returns:
        As many micro-batches as asked for, all of one size. Where the rows run out, rows of zeros follow of
        which nothing counts; they are told as present, since some models can't read a row of padding alone.
    """
    size = -(-batch.num_rows // (world * micro_batches))
    first = rank * micro_batches * size
    return [_rows(batch, first + number * size, size) for number in range(micro_batches)]


def _rows(batch: Batch, first: int, size: int) -> Batch:
    mask = batch.attention_mask
    return batch._replace(
        inputs=_padded(batch.inputs, first, size),
        targets=_padded(batch.targets, first, size),
        loss_mask=_padded(batch.loss_mask, first, size),
        attention_mask=None if mask is None else _padded(mask, first, size, filler=1),
    )


def _padded(tensor: Tensor, first: int, size: int, filler: int = 0) -> Tensor:
    rows = tensor[first : first + size]
    missing = size - len(rows)
    if not missing:
        return rows
    # Padding is told from the last dimension to the first.
    return F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, missing], value=filler)


class Interrupted(Exception):
    """Somebody asked for the end of the run."""


class ShardedBatches:
    """One process's rows of batches, until somebody asks for the end.

    Args:
        batches: those of the whole run; every process reads the same ones.
        rank: of the process.
        world: processes.
        stop_requested: asked before each batch, with the same answer on all processes.
    """

    def __init__(
        self, batches: Batches, rank: int, world: int, stop_requested: Callable[[], bool] = lambda: False
    ) -> None:
        self._batches = batches
        self._rank = rank
        self._world = world
        self._stop_requested = stop_requested

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._batches.num_batches

    def batch(self, epoch: int, index: int) -> Batch:
        """This process's rows of a batch, filled up so that all processes have equally many.

        Raises:
            Interrupted: if any process was asked to end.
        """
        if self._stop_requested():
            raise Interrupted
        return shard(self._batches.batch(epoch, index), self._rank, self._world)[0]
