"""Rows of a long run of tokens, in memory or on disk: a batch is a pure function of seed, epoch and index."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from fftnet.protocols import Batch

MAX_SHUFFLED = 2**24
"""Windows whose shuffled order is held in memory; the order of more is computed, never held."""
GOLDEN = 0x9E3779B97F4A7C15
BLOCK = 2**20
FEISTEL_ROUNDS = 6


def text_batch(rows: np.ndarray) -> Batch:
    """Rows of text as inputs and the tokens that follow them.

    Args:
        rows: int64 ids (B, T + 1), -1 behind the end of a text that is shorter.

    Returns:
        Inputs and targets int64 (B, T), 0 where nothing is.
    """
    present = torch.from_numpy(rows >= 0)
    tokens = torch.from_numpy(np.maximum(rows, 0))
    attention_mask = None if bool(present[:, :-1].all()) else present[:, :-1]
    return Batch(tokens[:, :-1], tokens[:, 1:], present[:, 1:], attention_mask)


class Tokens(Protocol):
    """What windows are cut from: an array, or spans of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> np.ndarray: ...


class Spans:
    """Spans of an array that are read as one run, without a copy of the whole.

    Args:
        tokens: ids, an array or a memory map.
        starts: int64, where the spans begin.
        ends: int64, where they end.
    """

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        self._tokens, self._starts = tokens, starts
        self._before = np.concatenate([[0], np.cumsum(ends - starts)])

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, span: slice, /) -> np.ndarray:
        start, stop, _ = span.indices(len(self))
        first = int(np.searchsorted(self._before, start, side="right")) - 1
        pieces = [self._tokens[:0]]
        while start < stop:
            taken = min(stop, int(self._before[first + 1])) - start
            offset = int(self._starts[first]) + start - int(self._before[first])
            pieces.append(self._tokens[offset : offset + taken])
            start, first = start + taken, first + 1
        return np.concatenate(pieces)


@dataclass(frozen=True)
class Passages:
    """The part of a token array that one split owns.

    An array starts with an end of text, and each document ends with one. It is divided into units that no
    split divides further: a document, or a piece of a very long one.
    """

    tokens: np.ndarray
    """Ids of all splits, an array or a memory map."""
    units: np.ndarray
    """uint64, twice the place where a unit ends, and 1 more if a document ends there too."""
    mine: np.ndarray
    """Boolean, the units of this split."""

    def run(self) -> Tokens:
        """All of it as one run of tokens that starts with an end of text."""
        firsts, lasts = _runs(self.mine)
        starts = np.concatenate([[0], self._place(firsts - 1)])
        ends = np.concatenate([[1], self._place(lasts)])
        if len(starts) > 1 and starts[1] == 1:
            starts, ends = starts[[0, *range(2, len(starts))]], ends[1:]
        return self.tokens[: ends[0]] if len(starts) == 1 else Spans(self.tokens, starts, ends)

    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Where documents start and end, int64, each from the token before its first, for it to be predicted.

        Neighbouring pieces of a long document are one again. Takes 16 bytes of memory a document.
        """
        owned = np.flatnonzero(self.mine)
        if not len(owned):
            return owned, owned
        goes_on = (self.units[owned[:-1]] & 1 == 0) & (np.diff(owned) == 1)
        firsts = owned[np.concatenate([[True], ~goes_on])]
        lasts = owned[np.concatenate([~goes_on, [True]])]
        return self._place(firsts - 1) - 1, self._place(lasts)

    def _place(self, units: np.ndarray) -> np.ndarray:
        ends = (self.units[np.maximum(units, 0)] >> 1).astype(np.int64)
        return np.where(units < 0, 1, ends)


class WindowBatches:
    """Windows of a long run of tokens.

    Args:
        tokens: ids.
        batch_size: B.
        max_seq_length: T.
        seed: of the offsets and the order; None takes consecutive windows from the start, each target once.
    """

    def __init__(self, tokens: Tokens, batch_size: int, max_seq_length: int, seed: int | None) -> None:
        self._tokens, self._batch_size, self._length = tokens, batch_size, max_seq_length
        windows = (len(tokens) - 1) // max_seq_length
        self._windows = windows if seed is not None else -(-(len(tokens) - 1) // max_seq_length)
        self._order = _Order(self._windows, max_seq_length, seed)
        self.num_batches = -(-self._windows // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Windows of T tokens; the last one of a run without a seed is padded."""
        order, offset = self._order.take(epoch, index * self._batch_size, self._batch_size)
        starts = order * self._length + offset
        if self._order.shuffled:
            starts = np.minimum(starts, len(self._tokens) - self._length - 1)
        rows = np.full((len(starts), self._length + 1), -1, dtype=np.int64)
        for row, start in zip(rows, starts.tolist(), strict=True):
            piece = self._tokens[start : start + self._length + 1]
            row[: len(piece)] = piece
        return text_batch(rows)


class DocumentBatches:
    """Windows that never hold two documents, so that no state crosses from one into the next.

    A document longer than a window fills several, each of which starts without a state.

    Args:
        passages: where the documents are.
        batch_size: B.
        max_seq_length: T.
        seed: of the order; None keeps that of the documents. Either way each target comes once an epoch.
    """

    def __init__(self, passages: Passages, batch_size: int, max_seq_length: int, seed: int | None) -> None:
        self._tokens, self._batch_size, self._length = passages.tokens, batch_size, max_seq_length
        self._starts, self._ends = passages.documents()
        self._before = np.cumsum(-(-(self._ends - self._starts - 1) // max_seq_length))
        self._windows = int(self._before[-1]) if len(self._before) else 0
        self._order = _Order(self._windows, 1, seed)
        self.num_batches = -(-self._windows // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Windows of L <= T tokens, as many as the longest needs, padded."""
        order, _ = self._order.take(epoch, index * self._batch_size, self._batch_size)
        owner = np.searchsorted(self._before, order, side="right")
        nth = order - np.where(owner > 0, self._before[owner - 1], 0)
        starts = self._starts[owner] + nth * self._length
        stops = np.minimum(starts + self._length + 1, self._ends[owner])
        rows = np.full((len(order), int((stops - starts).max())), -1, dtype=np.int64)
        for row, start, stop in zip(rows, starts.tolist(), stops.tolist(), strict=True):
            row[: stop - start] = self._tokens[start:stop]
        return text_batch(rows)


def make_batches(
    passages: Passages, batch_size: int, max_seq_length: int, seed: int | None, reset_at_documents: bool
) -> WindowBatches | DocumentBatches:
    """Rows of a split, of either kind."""
    if reset_at_documents:
        return DocumentBatches(passages, batch_size, max_seq_length, seed)
    return WindowBatches(passages.run(), batch_size, max_seq_length, seed)


class _Order:
    """Numbers 0 to ``count - 1`` in the order of an epoch, and how far its windows are shifted."""

    def __init__(self, count: int, shifts: int, seed: int | None) -> None:
        self.shuffled = seed is not None
        self._count, self._shifts, self._seed = count, shifts, seed
        self._held: tuple[int, np.ndarray, int] | None = None

    def take(self, epoch: int, first: int, size: int) -> tuple[np.ndarray, int]:
        places = np.arange(first, min(first + size, self._count))
        if self._seed is None:
            return places, 0
        if self._count > MAX_SHUFFLED:
            shift = int(np.random.default_rng((self._seed, epoch)).integers(self._shifts))
            return scatter(places, self._count, self._seed * GOLDEN + epoch), shift
        if self._held is None or self._held[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(self._count)
            self._held = epoch, order, int(rng.integers(self._shifts))
        return self._held[1][places], self._held[2]


def scatter(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where a pseudo-random permutation of 0 to ``count - 1`` puts these places, without holding it.

    A Feistel network permutes the next power of four; what falls outside walks on until it is inside.

    Args:
        places: int64, each below ``count``.
        count: at least 1.
        key: chooses the permutation.
    """
    half = np.uint64(max((count - 1).bit_length() + 1, 2) // 2)
    low = np.uint64(2 ** int(half) - 1)
    x, outside = places.astype(np.uint64), np.ones(len(places), dtype=bool)
    while outside.any():
        left, right = x[outside] >> half, x[outside] & low
        for turn in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (mix(right, key + turn * 0xD1B54A32D192ED03) & low)
        x[outside] = left << half | right
        outside = x >= count
    return x.astype(np.int64)


def mix(x: np.ndarray, key: int) -> np.ndarray:
    """Well-spread 64 bits for every number and key (SplitMix64)."""
    z = (x + np.uint64(1)) * np.uint64(GOLDEN) ^ mix_key(key)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def mix_key(key: int) -> np.uint64:
    """64 well-spread bits of an integer of any size."""
    return np.uint64(np.random.SeedSequence(key % 2**128).generate_state(1, np.uint64)[0])


def deal(count: int, test_fraction: float, valid_fraction: float, seed: int, first: int = 0) -> np.ndarray:
    """The split of units ``first`` to ``first + count - 1``, by hash: uint8, 0 train, 1 valid, 2 test."""
    splits = np.empty(count, dtype=np.uint8)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        share = mix(np.arange(first + start, first + stop, dtype=np.uint64), seed) / 2.0**64
        held_out = np.where(share < test_fraction, 2, 1)
        splits[start:stop] = np.where(share < test_fraction + valid_fraction, held_out, 0)
    return splits


def _runs(mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(mine.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2] - 1
