"""The protocol of sources: a new kind of corpus is a subclass of ``Source`` and a line in the table."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from fftnet.data.errors import DataError

Advance = Callable[[int], object]
"""Function that is called with the number of bytes read since its last call, for a progress bar."""


class Document(NamedTuple):
    """One text, in blocks, so that a long one need not be in memory as a whole."""

    name: str
    blocks: Iterable[str]


@dataclass(frozen=True)
class SourceFile:
    """Something that documents are read from: a file, a data set, a built-in corpus."""

    name: str
    path: Path | None
    """None if it is not a file."""
    source: "Source"
    """Kind of source that reads it."""

    @property
    def size(self) -> int | None:
        """Size in bytes; None if unknown."""
        return self.source.size if self.path is None else self.path.stat().st_size

    @property
    def identity(self) -> tuple[str, int, int]:
        """Name, size and time of the last change; differs whenever the content does, without reading it."""
        if self.path is None:
            # Content that comes with a package changes with its version.
            return f"{self.name} {self.source.version}", 0, 0
        # The absolute path counts, because another file may have the same size and time.
        status = self.path.stat()
        return str(self.path.absolute()), status.st_size, status.st_mtime_ns


class Source(ABC):
    """A kind of corpus."""

    label: ClassVar[str]
    """Name in help and error texts."""
    alone: ClassVar[bool] = False
    """It can't be mixed with other sources, and is skipped in folders."""
    is_file: ClassVar[bool] = True
    size: ClassVar[int | None] = None
    """Size in bytes of something that is not a file; None if unknown."""
    version: ClassVar[str] = ""
    """Version of the content of something that is not a file."""

    def resolve(self, word: str) -> list[SourceFile]:
        """Return everything that a word of ``--data`` names, in a fixed order, without reading it.

        A kind that is found by the suffix of its files is called with one path at a time.
        """
        return [SourceFile(word, Path(word) if self.is_file else None, self)]

    @abstractmethod
    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Yield the documents of a file one by one, with the text in ``text_field`` of a table.

        ``advance`` is called with the number of bytes read since its last call. An OSError passes through:
        the caller names the file.
        """


def path_of(file: SourceFile) -> Path:
    """Return the path of a source that is a file."""
    if file.path is None:
        raise DataError(f"{file.name} is not a file")
    return file.path
