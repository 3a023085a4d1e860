"""Batches of a tokenized text; each batch is a pure function of seed, epoch and index."""

from collections.abc import Sequence

import numpy as np
import torch

from fftnet.data.permutation import EpochOrder
from fftnet.data.tokens import SplitView
from fftnet.protocols import Batch


def text_batch(rows: Sequence[np.ndarray | list[int]], length: int = 0) -> Batch:
    """Make a batch of rows of tokens of at least ``length``, each predicted from those before it.

    Inputs and targets have T = longest - 1 tokens. Padding is 0, and False in both masks.
    """
    tokens, present = padded(rows, length)
    inputs_present = torch.from_numpy(present[:, :-1].copy())
    # Inputs and targets are copies, so that a change of one does not change the other.
    return Batch(
        inputs=torch.from_numpy(tokens[:, :-1].copy()),
        targets=torch.from_numpy(tokens[:, 1:].copy()),
        loss_mask=torch.from_numpy(present[:, 1:].copy()),
        attention_mask=None if bool(inputs_present.all()) else inputs_present,
    )


def padded(rows: Sequence[np.ndarray | list[int]], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as int64 ids (B, T), T at least ``length``, 0 behind their ends, and a mask of the ids."""
    longest = max(length, *map(len, rows))
    tokens = np.zeros((len(rows), longest), dtype=np.int64)
    present = np.zeros((len(rows), longest), dtype=bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        present[number, : len(row)] = True
    return tokens, present


class WindowBatches:
    """Windows of T tokens across the ends of documents; without a seed in order, each target once."""

    def __init__(
        self, tokens: np.ndarray | SplitView, batch_size: int, max_seq_length: int, seed: int | None
    ) -> None:
        self._tokens = tokens
        self._batch_size = batch_size
        self._length = max_seq_length
        predicted = len(tokens) - 1
        # With a seed, windows are shifted at random and always full; without one, the last may be shorter.
        windows = -(-predicted // max_seq_length) if seed is None else predicted // max_seq_length
        self._order = EpochOrder(windows, max_seq_length, seed)
        self.num_batches = -(-windows // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return windows of T tokens; without a seed, the last one is padded."""
        order, offset = self._order.slice(epoch, index * self._batch_size, self._batch_size)
        starts = order * self._length + offset
        if self._order.shuffled:
            # The shift may push the last window past the end of the text.
            starts = np.minimum(starts, len(self._tokens) - self._length - 1)
        size = self._length + 1
        return text_batch([self._tokens[start : start + size] for start in starts.tolist()], size)


class StretchBatches:
    """Windows that follow each other: row r of a batch continues in row r of the next one, for N batches.

    The unit of shuffling is a stretch of N windows. Stretches are adjacent, so that no target comes twice in
    an epoch. Less than a stretch is left out, at other places in every epoch. The last N batches of an epoch
    may have fewer rows. There must be more than ``windows * T`` tokens.
    """

    def __init__(
        self, tokens: np.ndarray | SplitView, batch_size: int, max_seq_length: int, windows: int, seed: int
    ) -> None:
        self._tokens = tokens
        self._batch_size = batch_size
        self._length = max_seq_length
        self._windows = windows
        stretches, rest = divmod(len(tokens) - 1, windows * max_seq_length)
        self._order = EpochOrder(stretches, rest + 1, seed)
        self.num_batches = -(-stretches // batch_size) * windows

    def batch(self, epoch: int, index: int) -> Batch:
        """Return window ``index % N`` of each stretch; ``fresh`` is True for window 0."""
        group, window = divmod(index, self._windows)
        order, offset = self._order.slice(epoch, group * self._batch_size, self._batch_size)
        starts = (order * self._windows + window) * self._length + offset
        # Window w + 1 begins with the last target of window w.
        rows = [self._tokens[start : start + self._length + 1] for start in starts.tolist()]
        return text_batch(rows)._replace(fresh=window == 0)


class DocumentBatches:
    """Windows that never hold two documents; each target comes once an epoch.

    Every window of a longer document starts with a fresh state, too.
    """

    def __init__(self, view: SplitView, batch_size: int, max_seq_length: int, seed: int | None) -> None:
        self._tokens = view.tokens
        self._batch_size = batch_size
        self._length = max_seq_length
        self._starts, self._ends = view.documents()
        # Window n belongs to the first document with more than n windows up to its end.
        self._windows_before = np.cumsum(-(-(self._ends - self._starts - 1) // max_seq_length))
        windows = int(self._windows_before[-1]) if len(self._windows_before) else 0
        self._order = EpochOrder(windows, 1, seed)
        self.num_batches = -(-windows // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return rows of at most T tokens, padded to the longest of them."""
        order, _ = self._order.slice(epoch, index * self._batch_size, self._batch_size)
        owner = np.searchsorted(self._windows_before, order, side="right")
        number = order - np.where(owner > 0, self._windows_before[owner - 1], 0)
        # A window begins with the last target of the window before it, or with the token before the document.
        starts = self._starts[owner] + number * self._length
        stops = np.minimum(starts + self._length + 1, self._ends[owner])
        spans = zip(starts.tolist(), stops.tolist(), strict=True)
        return text_batch([self._tokens[start:stop] for start, stop in spans])
