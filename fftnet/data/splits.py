"""Documents in chunks and segments, and the split that each segment belongs to: one rule for every text.

All documents in their order form one text. It is divided into segments. A fixed number of every 20
consecutive segments is held out, chosen by a hash of the seed. A segment ends where a document ends; only a
document that is long compared to the whole text is cut, so that even a single file of a few thousand
characters has all three splits. The rule depends on the text alone, not on sizes of files or on memory.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.permutation import hash64
from fftnet.data.sources import SourceFile
from fftnet.data.sources.base import Advance, Document

TRAIN, VALID, TEST = range(3)
CHUNK = 2**18
"""Characters at which a long document is divided into chunks; a chunk has at most twice as many."""
SAFE_CUT = re.compile(r"(?<=\S)(?= [^\W\d_])")
"""Place before a single space and a letter, which no token of any encoding spans."""
MIN_SEGMENTS = 100
"""Segments of a text at least; a longer document than the hundredth part of the text is cut."""
SEGMENT = 2**15
"""Minimum number of characters of a segment in a text of at least ``MIN_SEGMENTS * SEGMENT`` characters."""
LONGEST_DOCUMENT = 2**20
"""Number of characters beyond which a document is cut in any text."""
BLOCK = 20
"""Number of consecutive segments of which a fixed number is held out."""


class Chunk(NamedTuple):
    """A document or a part of one; most documents are a single chunk."""

    name: str
    """Name of the document, for messages."""
    text: str
    ends_document: bool
    ends_segment: bool = False
    """Set by ``segments``."""


def read_chunks(
    files: Sequence[SourceFile], text_field: str, advance: Advance = lambda count: None
) -> Iterator[Chunk]:
    """Yield the documents of all files in their order, in chunks; skip those without any text."""
    for file in files:
        empty = True
        try:
            for document in file.source.read(file, text_field, advance):
                for chunk in _divide(document):
                    empty = False
                    yield chunk
        except OSError as error:
            raise DataError(f"{file.name} can't be read: {error.strerror or error}") from error
        if empty:
            raise DataError(f"{file.name} is empty: leave it out")


def segments(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Mark the ends of segments, and cut documents that are longer than a segment may be.

    A segment has at least S characters: 1/100 of the text, but at most 32,768. A document is cut after S
    characters, or after 1/100 of the text before it if that is more, and always after a million.
    """
    stream = iter(chunks)
    # S is at its maximum as soon as the text has 100 of the largest segments, so no more is read ahead.
    ahead: list[Chunk] = []
    size = 0
    for chunk in stream:
        ahead.append(chunk)
        size += len(chunk.text)
        if size >= MIN_SEGMENTS * SEGMENT:
            break
    least = min(max(size // MIN_SEGMENTS, 1), SEGMENT)
    # Characters of finished pieces, of the current piece of a document, and of the current segment.
    before = piece = segment = 0
    for chunk in chain(ahead, stream):
        # The limit grows with the text before, so that a large text has longer, whole documents.
        longest = max(least, min(before // MIN_SEGMENTS, LONGEST_DOCUMENT))
        for part in _cut(chunk, piece, longest):
            piece += len(part.text)
            segment += len(part.text)
            ends = part.ends_segment or (part.ends_document and segment >= least)
            yield part._replace(ends_segment=ends)
            if ends:
                segment = 0
            if ends or part.ends_document:
                before += piece
                piece = 0


def assign_splits(
    count: int, *, valid_fraction: float, test_fraction: float, seed: int, first: int = 0
) -> np.ndarray:
    """Return TRAIN, VALID or TEST, uint8 (count,), of segments ``first`` to ``first + count - 1``.

    The first 20 segments hold at least one of every split whose fraction is not 0.
    """
    block_B = np.arange(first // BLOCK, -(-(first + count) // BLOCK))
    number_BS = block_B[:, None] * BLOCK + np.arange(BLOCK)
    # Ranks of random numbers are a random order of the segments of each block; the first ones are held out.
    rank_BS = hash64(number_BS.astype(np.uint64), seed).argsort(axis=1).argsort(axis=1)
    test_B = _held_out(block_B, test_fraction)
    held_out_B = test_B + _held_out(block_B, valid_fraction)
    split_BS = np.where(rank_BS < held_out_B[:, None], VALID, TRAIN)
    split_BS = np.where(rank_BS < test_B[:, None], TEST, split_BS).astype(np.uint8)
    return split_BS.ravel()[first % BLOCK :][:count]


def _held_out(block_B: np.ndarray, fraction: float) -> np.ndarray:
    """Return the number of held-out segments of each block, int64; sums over blocks are rounded up."""
    edges = np.append(block_B, block_B[-1:] + 1)
    # 20 * 3 * 0.05 is slightly more than 3 in float64, and must not be rounded up to 4.
    return np.diff(np.ceil(np.round(BLOCK * edges * fraction, 6))).astype(np.int64)


def _divide(document: Document) -> Iterator[Chunk]:
    buffer = ""
    divided = False
    for block in document.blocks:
        buffer += block
        # A chunk ends at a place that no token spans, so that chunks can be tokenized separately.
        while len(buffer) > 2 * CHUNK:
            at = _cut_place(buffer, CHUNK, 2 * CHUNK) or CHUNK
            yield Chunk(document.name, buffer[:at], ends_document=False)
            buffer = buffer[at:]
            divided = True
    if divided or buffer.strip():
        yield Chunk(document.name, buffer, ends_document=True)


def _cut(chunk: Chunk, piece: int, longest: int) -> Iterator[Chunk]:
    """Cut a chunk wherever its document has ``longest`` characters since the last cut; so far ``piece``."""
    text = chunk.text
    while piece + len(text) > longest:
        at = _cut_place(text, longest - piece, 2 * longest - piece)
        if at is None:
            break
        yield Chunk(chunk.name, text[:at], ends_document=False, ends_segment=True)
        text = text[at:]
        piece = 0
    # If the text ends before a safe place to cut, the document is cut at the end of the chunk, which is one.
    is_cut = not chunk.ends_document and piece + len(text) >= longest
    yield Chunk(chunk.name, text, chunk.ends_document, ends_segment=is_cut)


def _cut_place(text: str, first: int, last: int) -> int | None:
    """Return the first safe place in the range, else ``last``; None if the text ends before either."""
    place = SAFE_CUT.search(text, first, last)
    if place is not None:
        return place.start()
    return last if len(text) > last else None
