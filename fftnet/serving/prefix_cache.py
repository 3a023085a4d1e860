"""States of texts that were read before, found by what they have read."""

import hashlib
from array import array
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fftnet.model import State
from fftnet.model.state import state_tensors

OVERHEAD = 1024
"""Bytes that an entry takes beside its numbers, about: keys and Python's objects."""


class Prefix(NamedTuple):
    """What is known of the beginning of a text."""

    length: int
    """Tokens that were read."""
    state: State
    """The state behind them, of one row."""
    logits: Tensor | None = None
    """(1, V) of the token that follows; None where nobody has asked."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        tensors = [*state_tensors(self.state).values(), *([] if self.logits is None else [self.logits])]
        return OVERHEAD + sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class PrefixCache:
    """Keeps states by the tokens that they have read, within a number of bytes; the least used go first.

    A state has one size however long its text is, so that a text of any length is kept whole by one entry.
    Not for several threads.

    Args:
        max_bytes: memory that the entries may take; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, Prefix] = OrderedDict()
        self._lengths: list[int] = []
        self._of_length: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, tokens: Sequence[int], prefix: Prefix) -> None:
        """Keep what is known behind these tokens, in place of what was known before.

        Args:
            tokens: ids, as many as ``prefix.length``.
            prefix: shares no memory with what changes or is larger.
        """
        size = prefix.num_bytes
        if size > self.max_bytes:
            return
        (key,) = _keys(tokens, [prefix.length])
        old = self._entries.get(key)
        if old is not None:
            if prefix.logits is None and old.logits is not None:
                self._entries.move_to_end(key)
                return
            self._drop(key)
        while self.num_bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = prefix
        self.num_bytes += size
        if prefix.length not in self._of_length:
            insort(self._lengths, prefix.length)
        self._of_length[prefix.length] = self._of_length.get(prefix.length, 0) + 1

    def longest(self, tokens: Sequence[int]) -> Prefix | None:
        """The most that is known of a text: of all of it only together with logits.

        Args:
            tokens: ids of the text.
        """
        lengths = self._lengths[: bisect_right(self._lengths, len(tokens))]
        for key in reversed(_keys(tokens, lengths)):
            prefix = self._entries.get(key)
            if prefix is not None and (prefix.length < len(tokens) or prefix.logits is not None):
                self._entries.move_to_end(key)
                return prefix
        return None

    def _drop(self, key: bytes) -> None:
        prefix = self._entries.pop(key)
        self.num_bytes -= prefix.num_bytes
        self._of_length[prefix.length] -= 1
        if not self._of_length[prefix.length]:
            del self._of_length[prefix.length]
            del self._lengths[bisect_right(self._lengths, prefix.length) - 1]


def _keys(tokens: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
    """A key for the first so many tokens, for each of the ascending lengths: one pass over the tokens."""
    numbers = array("q", tokens[: lengths[-1]] if lengths else ())
    digest = hashlib.blake2b(digest_size=16)
    keys = []
    done = 0
    for length in lengths:
        digest.update(numbers[done:length])
        done = length
        keys.append(digest.digest())
    return keys
