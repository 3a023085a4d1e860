"""Plain text: a file is one document."""

import codecs
from collections.abc import Iterator

from fftnet.data.errors import DataError
from fftnet.data.sources.base import Advance, Document, Source, SourceFile, path_of

SUFFIXES = (".txt", ".md", ".rst", ".tex", ".csv", ".json", ".html", ".xml", ".py", ".c", ".h")
"""Files that are read as text in a folder; a file that is named on its own is text if nothing else fits."""
READ_BYTES = 2**20
BYTE_ORDER_MARK = "\ufeff"
"""Character that some programs put in front of UTF-8 text; it is no part of the text."""


class Text(Source):
    """UTF-8 text."""

    label = "a text file"

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """The file as a document, decoded block by block."""
        yield Document(file.name, _blocks(file, advance))


def _blocks(file: SourceFile, advance: Advance) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    block = b"-"
    with path_of(file).open("rb") as stream:
        while block:
            block = stream.read(READ_BYTES)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = f"{file.name} is not UTF-8 text (byte {read - held + error.start})"
                raise DataError(f"{place}: convert it or leave it out") from error
            yield text.removeprefix(BYTE_ORDER_MARK) if read == 0 else text
            read += len(block)
            advance(len(block))
