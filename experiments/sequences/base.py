"""Labelled sequences of integers in three splits, and the cache of generated ones."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.fetching import locked
from experiments.results import ExperimentError
from fftnet import serialization
from fftnet.data.labelled import LabelledBatches

SPLITS: tuple[str, str, str] = ("train", "valid", "test")
Sizes = tuple[int, int, int]
"""Rows of training, validation and test."""


@dataclass(frozen=True)
class Rows:
    """One split: rows of any lengths, concatenated in one array."""

    ids: np.ndarray
    """All rows, uint8 or int32."""
    ends: np.ndarray
    """End of each row in ``ids``, int64 (N,)."""
    labels: np.ndarray
    """Class of each row, int64 (N,)."""

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, index: int) -> np.ndarray:
        """Return the ids of one row, (T,)."""
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]]

    def batches(self, size: int, seed: int | None) -> LabelledBatches:
        """Return batches of the rows, shuffled by a seed or in their order (None)."""
        return LabelledBatches([self.row(n) for n in range(len(self))], self.labels, size, seed)

    def take(self, indices: Iterable[int]) -> "Rows":
        """Return some of the rows, in the order of the indices."""
        chosen = np.fromiter(indices, np.int64)
        return gather([self.row(index) for index in chosen.tolist()], self.labels[chosen], self.ids.dtype)


@dataclass(frozen=True)
class SequenceData:
    """A data set for classifying whole sequences."""

    train: Rows
    valid: Rows
    test: Rows
    vocab_size: int
    """Number of different ids. None is a filler: rows of a batch come with a mask."""
    class_names: tuple[str, ...]
    image_shape: tuple[int, int] | None = None
    """Height and width if a row is the pixels of a grey image, line by line."""


Builder = Callable[[Path, Sizes | None], SequenceData]
"""Function of the cache folder and the sizes (None: the published ones)."""


def gather(rows: Sequence[np.ndarray], labels: Iterable[int], dtype: np.typing.DTypeLike) -> Rows:
    """Return rows (T,) and their labels as one split."""
    # Rows of any lengths in one array need no padding on disk.
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    ids = np.concatenate(rows).astype(dtype, copy=False) if rows else np.empty(0, dtype)
    return Rows(ids, ends, np.fromiter(labels, np.int64))


def same_length(ids: np.ndarray, labels: np.ndarray) -> Rows:
    """Return rows of one length, (N, T), as one split."""
    count, length = ids.shape
    return Rows(ids.reshape(-1), length * np.arange(1, count + 1), labels.astype(np.int64))


def cut(rows: Rows, count: int | None) -> Rows:
    """Return the first rows of a split (None: all).

    Raises:
        ExperimentError: if there are fewer.
    """
    if count is None or count == len(rows):
        return rows
    if not 0 < count < len(rows):
        raise ExperimentError(f"{count} rows were asked for, but the split has {len(rows)}")
    ends = rows.ends[:count]
    return Rows(rows.ids[: ends[-1]], ends, rows.labels[:count])


def cut_all(splits: Sequence[Rows], sizes: Sizes | None) -> tuple[Rows, Rows, Rows]:
    """Return the first rows of each of the three splits (None: all)."""
    train, valid, test = map(cut, splits, sizes or (None, None, None))
    return train, valid, test


def hold_out(rows: Rows, counts: Sequence[int], seed: int = 0) -> tuple[Rows, Rows]:
    """Divide rows into training and validation by a fixed shuffle within every class.

    Args:
        rows: rows of all classes.
        counts: validation rows of each class, by its number.
        seed: random seed of the shuffle.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    label_N = rows.labels[order]
    held = [order[label_N == label][:count] for label, count in enumerate(counts)]
    # Both parts keep the shuffled order.
    is_held_N = np.zeros(len(rows), bool)
    is_held_N[np.concatenate(held)] = True
    # Shuffled, so that the first rows of both are of all classes.
    return rows.take(order[~is_held_N[order]]), rows.take(order[is_held_N[order]])


def generated(path: Path, make: Callable[[str], Rows]) -> tuple[Rows, Rows, Rows]:
    """Return the three splits of a generated set: made once, then read from a file.

    Args:
        path: file, with everything in its name that the rows depend on.
        make: function that returns the rows of a split by its name.

    Raises:
        ExperimentError: if the file is damaged or can't be written.
    """
    try:
        with locked(path):
            if not path.is_file():
                tensors = {
                    f"{name}_{field}": torch.from_numpy(array)
                    for name in SPLITS
                    for field, array in vars(make(name)).items()
                }
                # Under its name only when it is whole.
                partial = path.with_suffix(".partial")
                serialization.write_tensors(partial, tensors)
                partial.replace(path)
        stored = {name: tensor.numpy() for name, tensor in serialization.read_tensors(path).items()}
    except serialization.CheckpointError as error:
        raise ExperimentError(f"{error}: delete {path} to generate it again") from error
    train, valid, test = (
        Rows(*(stored[f"{name}_{field}"] for field in ("ids", "ends", "labels"))) for name in SPLITS
    )
    return train, valid, test
