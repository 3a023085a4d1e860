"""Plain text, the texts that come with Python, and sources without text: samples and token files."""

import codecs
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from fftnet.data.errors import DataError
from fftnet.data.sources.base import Advance, Document, Source, SourceFile, path_of

SUFFIXES = (".txt", ".md", ".rst", ".tex", ".csv", ".json", ".html", ".xml", ".py", ".c", ".h")
"""Suffixes of files that are read as text in a folder; a file that is named is text by default."""
READ_BYTES = 2**20
PACKAGES = (
    "asyncio collections concurrent email http importlib json logging multiprocessing unittest urllib xml"
)
"""Packages of the standard library that ``python-source`` reads next to its modules."""


class Text(Source):
    """UTF-8 text: a file is a document."""

    label = "a text file"

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Yield the file as a document that is decoded block by block."""
        yield Document(file.name, _blocks(file, advance))


class PythonDocs(Source):
    """The topics of Python's documentation that ``help()`` shows: a topic is a document."""

    label = "python-docs"
    is_file = False
    size = 0
    version = sys.version

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Yield the topics in the order of their names."""
        # Imported late: the module is large, and some distributions of Python lack it.
        topics = import_module("pydoc_data.topics").topics
        for name, text in sorted(topics.items()):
            yield Document(f"{file.name}/{name}", [text])


class PythonSource(Text):
    """The source code of Python's standard library: a file is a document."""

    label = "python-source"

    def resolve(self, word: str) -> list[SourceFile]:
        """Return the files, in the order of their folders and names."""
        library = Path(sysconfig.get_paths()["stdlib"])
        folders = [library, *(library / name for name in PACKAGES.split())]
        files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
        # Shorter files hold only a licence or nothing.
        return [SourceFile(str(path), path, self) for path in files if path.stat().st_size > 100]


class Synthetic(Source):
    """Samples of ``fftnet.data.grammar``; ``fftnet.data.synthetic`` makes batches of them."""

    label = "synthetic"
    alone = True
    is_file = False
    size = 0

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Refuse: whoever can use samples does not ask for documents."""
        raise DataError(f"{file.name} data are samples, not documents: name a real text")


class Tokens(Source):
    """A token file, which ``fftnet.data.cache`` opens."""

    label = "a .tokens file that an earlier run left"
    alone = True

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Refuse: the file holds no text."""
        raise DataError(f"{file.name} holds no text to learn bpe from: name the tokenizer it was made with")


def _blocks(file: SourceFile, advance: Advance) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    block = b"-"
    with path_of(file).open("rb") as stream:
        while block:
            block = stream.read(READ_BYTES)
            # Bytes of a character that the end of the last block has cut.
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = f"{file.name} is not UTF-8 text (byte {read - held + error.start})"
                raise DataError(f"{place}: convert it or leave it out") from error
            # A byte order mark in front of the text is not part of it; later the character is.
            yield text.removeprefix("\ufeff") if read == 0 else text
            read += len(block)
            advance(len(block))
