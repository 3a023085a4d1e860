"""The part of an array of tokens that a split owns, as one run of tokens and as documents."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class TokenArrays(NamedTuple):
    """A tokenized text, in memory or mapped into it; it starts with an end of text, and each document ends
    with one."""

    tokens: np.ndarray
    """uint16 or uint32 ids."""
    document_ends: np.ndarray
    """uint64, ascending: how many tokens there are up to the end of each document."""
    segment_ends: np.ndarray
    """uint64, ascending: how many there are up to the end of each segment."""


class TokenRun(Protocol):
    """A run of tokens that windows are cut from: an array, or spans of one."""

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
        self._tokens = tokens
        self._starts = starts
        self._before = np.concatenate([[0], np.cumsum(ends - starts)])

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, span: slice, /) -> np.ndarray:
        start, stop, _ = span.indices(len(self))
        number = int(np.searchsorted(self._before, start, side="right")) - 1
        pieces = [self._tokens[:0]]
        while start < stop:
            taken = min(stop, int(self._before[number + 1])) - start
            offset = int(self._starts[number]) + start - int(self._before[number])
            pieces.append(self._tokens[offset : offset + taken])
            start += taken
            number += 1
        return np.concatenate(pieces)


@dataclass(frozen=True)
class SplitView:
    """The part of a text that a split owns.

    Attributes:
        tokens: ids of all splits, an array or a memory map.
        document_ends: uint64, see ``TokenArrays``.
        starts: int64 (N,), ascending, where the parts begin; no part begins where another ends.
        ends: int64 (N,), where they end.
    """

    tokens: np.ndarray
    document_ends: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def run(self) -> TokenRun:
        """All of it as one run of tokens that starts with an end of text."""
        starts = np.concatenate([[0], self.starts])
        ends = np.concatenate([[1], self.ends])
        if len(starts) > 1 and starts[1] == 1:
            starts = np.delete(starts, 1)
            ends = ends[1:]
        return self.tokens[: ends[0]] if len(starts) == 1 else Spans(self.tokens, starts, ends)

    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Where documents start and end, int64, each from the token before its first, for it to be predicted.

        Neighbouring pieces of a long document are one again. Takes 16 bytes of memory a document.
        """
        if not len(self.starts):
            return self.starts, self.ends
        document_ends = self.document_ends.astype(np.int64)
        owner = np.searchsorted(self.starts, document_ends, side="left") - 1
        inside = document_ends[(owner >= 0) & (document_ends <= self.ends[owner])]
        between = np.setdiff1d(inside, self.ends, assume_unique=True)
        starts = np.union1d(self.starts, between)
        return starts - 1, np.union1d(self.ends, between)


def view_segments(text: TokenArrays, owned: np.ndarray | None = None) -> SplitView:
    """The part of a text in some of its segments.

    Args:
        text: all of it.
        owned: boolean, of every segment; None takes all.
    """
    bounds = np.concatenate([[1], text.segment_ends]).astype(np.int64)
    if owned is None:
        owned = np.ones(len(text.segment_ends), dtype=bool)
    edges = np.flatnonzero(np.diff(owned.astype(np.int8), prepend=0, append=0))
    return SplitView(text.tokens, text.document_ends, bounds[edges[::2]], bounds[edges[1::2]])


def join_arrays(parts: Iterable[TokenArrays]) -> TokenArrays:
    """Parts of a text, whose ends count from its beginning, as one."""
    columns = zip(*parts, strict=True)
    return TokenArrays(*(np.concatenate(column) for column in columns))
