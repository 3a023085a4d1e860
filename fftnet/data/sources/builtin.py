"""Corpora that every machine with Python has: its documentation and its standard library."""

import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from fftnet.data.sources.base import Advance, Document, Source, SourceFile
from fftnet.data.sources.text import Text

PACKAGES = (
    "asyncio",
    "collections",
    "concurrent",
    "email",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
"""Packages of the standard library that are read beside its modules."""
SHORTEST = 100
"""Bytes; shorter files hold a licence or nothing."""


class PythonDocs(Source):
    """The topics of Python's documentation that ``help()`` shows: a topic is a document."""

    label = "python-docs"
    size = 0
    version = sys.version

    def resolve(self, word: str) -> list[SourceFile]:
        """The corpus, which is no file."""
        return [SourceFile(word, None, self)]

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """The topics in the order of their names."""
        topics = import_module("pydoc_data.topics").topics
        for name, text in sorted(topics.items()):
            yield Document(f"{file.name}/{name}", [text])


class PythonSource(Text):
    """The source code of Python's standard library: a file is a document."""

    label = "python-source"

    def resolve(self, word: str) -> list[SourceFile]:
        """The files, in the order of their folders and names."""
        library = Path(sysconfig.get_paths()["stdlib"])
        folders = [library, *(library / name for name in PACKAGES)]
        files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
        return [SourceFile(str(path), path, self) for path in files if path.stat().st_size > SHORTEST]
