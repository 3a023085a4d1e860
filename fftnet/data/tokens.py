"""A tokenized text as arrays, and the part of it that a split owns."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.splits import CHUNK, Chunk
from fftnet.protocols import TextEncoder


class TokenArrays(NamedTuple):
    """A tokenized text, in memory or memory-mapped; an end of text begins it and follows each document."""

    tokens: np.ndarray
    """uint16 or uint32 ids."""
    document_ends: np.ndarray
    """uint64, ascending: number of tokens up to the end of each document."""
    segment_ends: np.ndarray
    """uint64, ascending: number of tokens up to the end of each segment."""
    digest: str | None = None
    """SHA-256 of the text and its division into documents; None if unknown."""


@dataclass(frozen=True)
class SplitView:
    """The part of a text that a split owns, as one run of tokens that starts with an end of text."""

    tokens: np.ndarray
    """Ids of all splits, an array or a memory map."""
    document_ends: np.ndarray
    starts: np.ndarray
    """int64 (N,), ascending, first token of each part; no part begins where another ends."""
    ends: np.ndarray

    @cached_property
    def _spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts of the spans, the first end of text included, and the number of tokens before each."""
        # The first end of text lets the first token be predicted, in every split.
        starts = np.concatenate([[0], self.starts])
        ends = np.concatenate([[1], self.ends])
        return starts, np.concatenate([[0], np.cumsum(ends - starts)])

    def __len__(self) -> int:
        return int(self._spans[1][-1])

    def __getitem__(self, span: slice, /) -> np.ndarray:
        place = np.arange(*span.indices(len(self)))
        starts, before = self._spans
        number = np.searchsorted(before, place, side="right") - 1
        return self.tokens[starts[number] + place - before[number]]

    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Return starts and ends of the documents, int64, each with the token before its first."""
        if not len(self.starts):
            return self.starts, self.ends
        # Neighbouring pieces of a long document are one document again.
        document_ends = self.document_ends.astype(np.int64)
        # An end of a document inside a part divides it; the ends of parts are ends of documents anyway.
        owner = np.searchsorted(self.starts, document_ends, side="left") - 1
        inside = document_ends[(owner >= 0) & (document_ends <= self.ends[owner])]
        between = np.setdiff1d(inside, self.ends, assume_unique=True)
        starts = np.union1d(self.starts, between)
        return starts - 1, np.union1d(self.ends, between)


def view_segments(text: TokenArrays, owned: np.ndarray | None = None) -> SplitView:
    """Return the part of a text in the segments that ``owned``, boolean (segments,), marks; None: all."""
    bounds = np.concatenate([[1], text.segment_ends]).astype(np.int64)
    if owned is None:
        owned = np.ones(len(text.segment_ends), dtype=bool)
    # Neighbouring segments form one part: a part begins and ends where ``owned`` changes.
    edges = np.flatnonzero(np.diff(owned.astype(np.int8), prepend=0, append=0))
    return SplitView(text.tokens, text.document_ends, bounds[edges[::2]], bounds[edges[1::2]])


def id_dtype(tokenizer: TextEncoder) -> np.dtype:
    """Return uint16 if it holds all ids of a tokenizer, else uint32."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def tokenize(chunks: Iterable[Chunk], tokenizer: TextEncoder) -> TokenArrays:
    """Tokenize a text into memory."""
    parts = list(tokenize_parts(chunks, tokenizer))
    tokens, document_ends, segment_ends, _ = zip(*parts, strict=True)
    arrays = map(np.concatenate, (tokens, document_ends, segment_ends))
    return TokenArrays(*arrays, digest=parts[-1].digest)


def tokenize_parts(chunks: Iterable[Chunk], tokenizer: TextEncoder) -> Iterator[TokenArrays]:
    """Tokenize the chunks of ``segments`` part by part; ends count from the beginning of the text."""
    dtype = id_dtype(tokenizer)
    sha256 = hashlib.sha256()
    none = np.array([], np.uint64)
    yield TokenArrays(np.array([tokenizer.eot], dtype), none, none)
    count = ended = 1
    for tokens, document_ends, segment_ends, _ in _encode_groups(_group(chunks, sha256), tokenizer):
        # Ends of a group count from its own beginning.
        offset = np.uint64(count)
        yield TokenArrays(tokens, document_ends + offset, segment_ends + offset)
        if len(segment_ends):
            ended = count + int(segment_ends[-1])
        count += len(tokens)
    # The last segment ends with the text, marked or not.
    last = np.array([count], np.uint64) if ended < count else none
    yield TokenArrays(np.array([], dtype), none, last, sha256.hexdigest())


def _encode_groups(groups: Iterable[list[Chunk]], tokenizer: TextEncoder) -> Iterator[TokenArrays]:
    workers = os.cpu_count() or 1
    waiting: deque[Future[TokenArrays]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for group in groups:
            waiting.append(pool.submit(_encode, group, tokenizer))
            # ``pool.map`` would read all groups at once; here at most two per worker are held.
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _group(chunks: Iterable[Chunk], sha256: "hashlib._Hash") -> Iterator[list[Chunk]]:
    """Yield lists of chunks that are long enough to be worth a task of a thread, and update the digest."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        # The separator of documents is a byte that no UTF-8 text holds.
        sha256.update(chunk.text.encode() + (b"\xff" if chunk.ends_document else b""))
        group.append(chunk)
        size += len(chunk.text)
        if size >= CHUNK:
            yield group
            group = []
            size = 0
    if group:
        yield group


def _encode(chunks: list[Chunk], tokenizer: TextEncoder) -> TokenArrays:
    """Encode chunks; ends count from the beginning of the first one."""
    dtype = id_dtype(tokenizer)
    pieces: list[np.ndarray] = []
    document_ends: list[int] = []
    segment_ends: list[int] = []
    count = 0
    for chunk in chunks:
        try:
            pieces.append(tokenizer.encode_array(chunk.text).astype(dtype))
        except ValueError as error:
            raise DataError(f"{chunk.name}: {error}") from error
        count += len(pieces[-1])
        if chunk.ends_document:
            pieces.append(np.array([tokenizer.eot], dtype))
            count += 1
            document_ends.append(count)
        if chunk.ends_segment:
            segment_ends.append(count)
    tokens = np.concatenate(pieces)
    return TokenArrays(tokens, np.array(document_ends, np.uint64), np.array(segment_ends, np.uint64))
