"""Documents in chunks: no more than a chunk of a text file, or a document of a table, is held in memory."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fftnet.data.errors import DataError
from fftnet.data.sources import SourceFile
from fftnet.data.sources.base import Advance, Document

CHUNK = 2**18
"""Characters at which a long document is divided; a chunk has at most twice as many."""
SAFE_CUT = re.compile(r"(?<=\S)(?= [^\W\d_])")
"""No encoding puts a token across the place before a single space and a letter."""


class Chunk(NamedTuple):
    """A document or a part of one; most documents are a single chunk."""

    name: str
    """Where the document is from."""
    text: str
    ends_document: bool
    ends_segment: bool = False
    """See ``fftnet.data.splits.segments``."""


def read_chunks(
    files: Sequence[SourceFile], text_field: str, advance: Advance = lambda count: None
) -> Iterator[Chunk]:
    """Read the documents of all files in their order; those without any text are passed over.

    Args:
        files: from ``fftnet.data.sources.resolve``.
        text_field: column that holds the text, where there are columns.
        advance: is told how many bytes were read, now and then.

    Raises:
        DataError: naming what is empty, damaged, not UTF-8, or lacks the field.
    """
    for file in files:
        empty = True
        try:
            for document in file.source.read(file, text_field, advance):
                for chunk in _divided(document):
                    empty = False
                    yield chunk
        except OSError as error:
            raise DataError(f"{file.name} can't be read: {error.strerror or error}") from error
        if empty:
            raise DataError(f"{file.name} is empty: leave it out")


def cut_place(text: str, first: int, last: int) -> int | None:
    """Where to divide a text that should be cut at ``first`` or soon after.

    Returns:
        The first place from ``first`` to ``last`` that no token spans, else ``last``; None if the text ends
        before either.
    """
    place = SAFE_CUT.search(text, first, last)
    if place is not None:
        return place.start()
    return last if len(text) > last else None


def _divided(document: Document) -> Iterator[Chunk]:
    buffer = ""
    divided = False
    for block in document.blocks:
        buffer += block
        while len(buffer) > 2 * CHUNK:
            at = cut_place(buffer, CHUNK, 2 * CHUNK) or CHUNK
            yield Chunk(document.name, buffer[:at], ends_document=False)
            buffer = buffer[at:]
            divided = True
    if divided or buffer.strip():
        yield Chunk(document.name, buffer, ends_document=True)
