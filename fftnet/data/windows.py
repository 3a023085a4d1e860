"""Batches of a tokenized text: a batch is a pure function of seed, epoch and index."""

from collections.abc import Sequence

import numpy as np
import torch

from fftnet.data.permutation import EpochOrder
from fftnet.data.split_view import SplitView, TokenRun
from fftnet.protocols import Batch


def text_batch(rows: Sequence[np.ndarray | list[int]], length: int = 0) -> Batch:
    """Rows of tokens, of which each but the first is to be predicted from those before it.

    Args:
        rows: B runs of ids, of any lengths.
        length: tokens that a row is padded to, at least; the longest row decides where it has more.

    Returns:
        inputs and targets of T = longest - 1 tokens; where nothing is, they are 0 and both masks are False;
        ``attention_mask`` is None where no input is missing.
    """
    tokens, present = padded(rows, length)
    inputs_present = torch.from_numpy(present[:, :-1].copy())
    # Copies, so that what changes the inputs does not change the targets.
    return Batch(
        inputs=torch.from_numpy(tokens[:, :-1].copy()),
        targets=torch.from_numpy(tokens[:, 1:].copy()),
        loss_mask=torch.from_numpy(present[:, 1:].copy()),
        attention_mask=None if bool(inputs_present.all()) else inputs_present,
    )


def padded(rows: Sequence[np.ndarray | list[int]], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of any lengths as one array, padding behind them.

    Args:
        rows: B runs of ids.
        length: ids that a row is padded to, at least.

    Returns:
        int64 ids (B, T), 0 where nothing is, and where something is, a boolean (B, T).
    """
    longest = max(length, *map(len, rows))
    tokens = np.zeros((len(rows), longest), dtype=np.int64)
    present = np.zeros((len(rows), longest), dtype=bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        present[number, : len(row)] = True
    return tokens, present


class WindowBatches:
    """Windows of a long run of tokens.

    Args:
        tokens: ids.
        batch_size: B.
        max_seq_length: T.
        seed: of the offsets and the order; None takes consecutive windows from the start, each target once.
    """

    def __init__(self, tokens: TokenRun, batch_size: int, max_seq_length: int, seed: int | None) -> None:
        self._tokens = tokens
        self._batch_size = batch_size
        self._length = max_seq_length
        predicted = len(tokens) - 1
        windows = -(-predicted // max_seq_length) if seed is None else predicted // max_seq_length
        self._order = EpochOrder(windows, max_seq_length, seed)
        self.num_batches = -(-windows // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Windows of T tokens; of a run without a seed, the last one may be shorter, and is padded."""
        order, offset = self._order.slice(epoch, index * self._batch_size, self._batch_size)
        starts = order * self._length + offset
        if self._order.shuffled:
            starts = np.minimum(starts, len(self._tokens) - self._length - 1)
        size = self._length + 1
        return text_batch([self._tokens[start : start + size] for start in starts.tolist()], size)


class StretchBatches:
    """Windows that follow each other: row r of a batch goes on in row r of the next one, for N batches.

    What is shuffled are stretches of N windows. They lie side by side, so that no target comes twice in an
    epoch. Fewer than a stretch are left out, before the first one and behind the last, others in every epoch.

    Args:
        tokens: ids, more than ``windows * max_seq_length``.
        batch_size: B; the rows of an epoch's last N batches may be fewer.
        max_seq_length: T.
        windows: N.
        seed: of the offsets and the order.
    """

    def __init__(
        self, tokens: TokenRun, batch_size: int, max_seq_length: int, windows: int, seed: int
    ) -> None:
        self._tokens = tokens
        self._batch_size = batch_size
        self._length = max_seq_length
        self._windows = windows
        stretches, left = divmod(len(tokens) - 1, windows * max_seq_length)
        self._order = EpochOrder(stretches, left + 1, seed)
        self.num_batches = -(-stretches // batch_size) * windows

    def batch(self, epoch: int, index: int) -> Batch:
        """Window ``index % N`` of its stretches; ``fresh`` where that is 0."""
        group, window = divmod(index, self._windows)
        order, offset = self._order.slice(epoch, group * self._batch_size, self._batch_size)
        starts = (order * self._windows + window) * self._length + offset
        rows = [self._tokens[start : start + self._length + 1] for start in starts.tolist()]
        return text_batch(rows)._replace(fresh=window == 0)


class DocumentBatches:
    """Windows that never hold two documents, so that no state crosses from one into the next.

    A document longer than a window fills several, each of which starts without a state.

    Args:
        view: where the documents are.
        batch_size: B.
        max_seq_length: T.
        seed: of the order; None keeps that of the documents. Either way each target comes once an epoch.
    """

    def __init__(self, view: SplitView, batch_size: int, max_seq_length: int, seed: int | None) -> None:
        self._tokens = view.tokens
        self._batch_size = batch_size
        self._length = max_seq_length
        self._starts, self._ends = view.documents()
        self._windows_before = np.cumsum(-(-(self._ends - self._starts - 1) // max_seq_length))
        windows = int(self._windows_before[-1]) if len(self._windows_before) else 0
        self._order = EpochOrder(windows, 1, seed)
        self.num_batches = -(-windows // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Rows of at most T tokens, as long as the longest of them needs."""
        order, _ = self._order.slice(epoch, index * self._batch_size, self._batch_size)
        owner = np.searchsorted(self._windows_before, order, side="right")
        number = order - np.where(owner > 0, self._windows_before[owner - 1], 0)
        starts = self._starts[owner] + number * self._length
        stops = np.minimum(starts + self._length + 1, self._ends[owner])
        spans = zip(starts.tolist(), stops.tolist(), strict=True)
        return text_batch([self._tokens[start:stop] for start, stop in spans])


def make_batches(
    view: SplitView, batch_size: int, max_seq_length: int, seed: int | None, reset_at_documents: bool
) -> WindowBatches | DocumentBatches:
    """Batches of a split, of either kind."""
    if reset_at_documents:
        return DocumentBatches(view, batch_size, max_seq_length, seed)
    return WindowBatches(view.run(), batch_size, max_seq_length, seed)
