"""Which part of a text trains, validates and tests: one rule, in one pass, whatever fits into memory.

All documents in their order form one text. It is divided into segments, and of every 20 consecutive segments
so many are held out as the fractions ask for, chosen by a hash of the seed. A segment ends where a document
ends; only a document that is long beside the whole text is cut, so that even a single file of a few thousand
characters has all three splits. The rule reads nothing but the text: neither sizes of files nor what is in
memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from fftnet.data.chunks import Chunk, cut_place
from fftnet.data.permutation import hash64

TRAIN, VALID, TEST = range(3)
MIN_SEGMENTS = 100
"""A segment is at least this part of a text, and a document that is longer than it is cut."""
SEGMENT = 2**15
"""Characters of a segment at least, where the text is longer than 100 times as many."""
LONGEST_DOCUMENT = 2**20
"""Characters; a longer document is cut in any text."""
BLOCK = 20
"""Segments of which a fixed number is held out."""


def segments(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Mark where segments end, and cut documents that are longer than a segment may be.

    A segment has at least S characters: 1/100 of the text, or 32,768 if that is less, so that a look ahead at
    3 million characters tells S. A document is cut after S characters, or after 1/100 of the text before it
    if that is more, and in any case after a million.

    Args:
        chunks: of all documents, in their order.

    Returns:
        The same text, divided further; a segment ends with each chunk that says so, and with the last one.
    """
    least, chunks = _look_ahead(chunks)
    before = 0
    piece = 0
    segment = 0
    for chunk in chunks:
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
    """The splits of segments ``first`` to ``first + count - 1``.

    Of the first 20 segments, every split that has a fraction gets one at least.

    Args:
        count: segments.
        valid_fraction: of all segments, that validate.
        test_fraction: of all segments, that test.
        seed: chooses which.
        first: number of the first segment.

    Returns:
        uint8 (count,): TRAIN, VALID or TEST.
    """
    block_B = np.arange(first // BLOCK, -(-(first + count) // BLOCK))
    number_BS = block_B[:, None] * BLOCK + np.arange(BLOCK)
    rank_BS = hash64(number_BS.astype(np.uint64), seed).argsort(axis=1).argsort(axis=1)
    test_B = _due(block_B, test_fraction)
    held_out_B = test_B + _due(block_B, valid_fraction)
    split_BS = np.where(rank_BS < held_out_B[:, None], VALID, TRAIN)
    split_BS = np.where(rank_BS < test_B[:, None], TEST, split_BS).astype(np.uint8)
    return split_BS.ravel()[first % BLOCK :][:count]


def _due(block_B: np.ndarray, fraction: float) -> np.ndarray:
    """Segments of each block that a split gets: in all blocks so far, its fraction, rounded up."""

    def until(block: np.ndarray) -> np.ndarray:
        # 20 times 3 times 0.05 is a little more than 3, which is not to be rounded up to 4.
        return np.ceil(np.round(BLOCK * block * fraction, 6)).astype(np.int64)

    return until(block_B + 1) - until(block_B)


def _look_ahead(chunks: Iterable[Chunk]) -> tuple[int, Iterator[Chunk]]:
    """Characters of a segment at least, and all chunks."""
    stream = iter(chunks)
    held: deque[Chunk] = deque()
    size = 0
    for chunk in stream:
        held.append(chunk)
        size += len(chunk.text)
        if size >= MIN_SEGMENTS * SEGMENT:
            break
    least = min(max(size // MIN_SEGMENTS, 1), SEGMENT)
    return least, chain((held.popleft() for _ in range(len(held))), stream)


def _cut(chunk: Chunk, piece: int, longest: int) -> Iterator[Chunk]:
    """A chunk in parts, of which all but the last end where the document is cut.

    Args:
        chunk: to be cut.
        piece: characters of its document before it, since the document began or was cut; below ``longest``.
        longest: characters after which a document is cut.
    """
    text = chunk.text
    while piece + len(text) > longest:
        at = cut_place(text, longest - piece, 2 * longest - piece)
        if at is None:
            break
        yield Chunk(chunk.name, text[:at], ends_document=False, ends_segment=True)
        text = text[at:]
        piece = 0
    is_cut = not chunk.ends_document and piece + len(text) >= longest
    yield Chunk(chunk.name, text, chunk.ends_document, ends_segment=is_cut)
