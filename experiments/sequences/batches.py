"""Batches of labelled rows: a batch is a pure function of the seed and the number of the step."""

from collections.abc import Iterator

import numpy as np
import torch

from experiments.sequences.base import Rows
from fftnet.protocols import Batch

NEIGHBOURS = 16
"""Batches whose rows are sorted by length among themselves, so that a batch needs little padding."""


def padded(rows: Rows, numbers: np.ndarray) -> Batch:
    """Some rows as a batch: ids int64 (B, T) of the longest, labels (B,), a mask where one is shorter."""
    taken = [rows.row(int(number)) for number in numbers]
    longest = max(map(len, taken))
    ids_BT = np.zeros((len(taken), longest), dtype=np.int64)
    present_BT = np.zeros((len(taken), longest), dtype=bool)
    for place, row in enumerate(taken):
        ids_BT[place, : len(row)] = row
        present_BT[place, : len(row)] = True
    return Batch(
        inputs=torch.from_numpy(ids_BT),
        targets=torch.from_numpy(rows.labels[numbers].astype(np.int64)),
        loss_mask=torch.ones(len(taken), dtype=torch.bool),
        attention_mask=None if present_BT.all() else torch.from_numpy(present_BT),
    )


class TrainingBatches:
    """Shuffled batches, epoch after epoch; rows that are too few for a batch are left out of an epoch.

    Args:
        rows: at least one batch of them.
        size: B.
        seed: of all orders.
    """

    def __init__(self, rows: Rows, size: int, seed: int) -> None:
        self.rows = rows
        self.size = min(size, len(rows))
        self.seed = seed
        self.per_epoch = len(rows) // self.size
        self._epoch: int | None = None
        self._order = np.empty((0, 0), dtype=np.int64)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = self._ordered(epoch)
            self._epoch = epoch
        return padded(self.rows, self._order[index])

    def _ordered(self, epoch: int) -> np.ndarray:
        """Numbers of the rows of every batch of an epoch, (batches, B)."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.rows))[: self.per_epoch * self.size]
        lengths = np.diff(self.rows.ends, prepend=0)
        together = NEIGHBOURS * self.size
        for start in range(0, len(order), together):
            part = order[start : start + together]
            order[start : start + together] = part[np.argsort(lengths[part], kind="stable")]
        return generator.permutation(order.reshape(self.per_epoch, self.size))


def in_order(rows: Rows, size: int, most: int | None = None) -> Iterator[Batch]:
    """The first ``most`` rows (None: all), each once, by length."""
    lengths = np.diff(rows.ends, prepend=0)[:most]
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield padded(rows, order[start : start + size])
