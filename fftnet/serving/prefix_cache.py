"""Prefix cache: model states by the tokens that they have read."""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fftnet.model import State
from fftnet.model.state import state_tensors


class Prefix(NamedTuple):
    """State of the model after the first tokens of a text."""

    length: int
    state: State
    """State after them, of one row."""
    logits: Tensor | None = None
    """Logits (1, V) of the next token (None: not kept)."""

    @property
    def num_bytes(self) -> int:
        """Memory of the entry, bytes."""
        tensors = [*state_tensors(self.state).values(), *([] if self.logits is None else [self.logits])]
        # Key and Python objects take about 1024 bytes.
        return 1024 + sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class PrefixCache:
    """Least-recently-used cache of states within a memory limit; not thread-safe.

    A state has the same size however long its text is, so one entry keeps a whole text.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, Prefix] = OrderedDict()
        # Number of entries of each length: only these lengths are looked up.
        self._lengths: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, tokens: Sequence[int], prefix: Prefix) -> None:
        """Keep the state after these tokens, which must not share memory with other tensors."""
        size = prefix.num_bytes
        if size > self.max_bytes:
            return
        (key,) = _keys(tokens, [prefix.length])
        old = self._entries.get(key)
        if old is not None and old.logits is not None and prefix.logits is None:
            # The old entry has the same state and more.
            self._entries.move_to_end(key)
            return
        if old is not None:
            self._drop(key)
        while self.num_bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = prefix
        self.num_bytes += size
        self._lengths[prefix.length] += 1

    def longest(self, tokens: Sequence[int]) -> Prefix | None:
        """Return the entry with the longest prefix of the tokens; one of all tokens must have logits."""
        lengths = sorted(length for length in self._lengths if length <= len(tokens))
        for key in reversed(_keys(tokens, lengths)):
            prefix = self._entries.get(key)
            if prefix is not None and (prefix.length < len(tokens) or prefix.logits is not None):
                self._entries.move_to_end(key)
                return prefix
        return None

    def _drop(self, key: bytes) -> None:
        prefix = self._entries.pop(key)
        self.num_bytes -= prefix.num_bytes
        self._lengths[prefix.length] -= 1
        if not self._lengths[prefix.length]:
            del self._lengths[prefix.length]


def _keys(tokens: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
    """Return a digest of the first ``n`` tokens for each ``n`` of the ascending lengths, in one pass."""
    # 64-bit integers: the bytes of different sequences of ids differ.
    numbers = array("q", tokens[: lengths[-1]] if lengths else ())
    digest = hashlib.blake2b(digest_size=16)
    keys = []
    done = 0
    for length in lengths:
        digest.update(numbers[done:length])
        done = length
        keys.append(digest.digest())
    return keys
