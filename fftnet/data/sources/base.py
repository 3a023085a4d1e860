"""The protocol of sources: a new kind of corpus is a subclass of ``Source`` and a line in the table."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr, ClassVar, NamedTuple

from fftnet.data.bpe import check_unicode
from fftnet.data.errors import DataError, TokenizerError

Advance = Callable[[int], object]
"""Is told how many bytes were read since the last call, for a progress bar."""
LONGEST_LINE = 2**28
"""Bytes or characters of a line or a field of a table; more is a damaged file, and would fill the memory."""


class Document(NamedTuple):
    """One text, in blocks, so that a long one need not be in memory as a whole."""

    name: str
    blocks: Iterable[str]


@dataclass(frozen=True)
class SourceFile:
    """Something that documents are read from: a file, a data set, a built-in corpus."""

    name: str
    path: Path | None
    """None where it is no file."""
    source: "Source"
    """The kind of source that reads it."""

    @property
    def size(self) -> int | None:
        """Bytes; None where that is not known beforehand."""
        return self.source.size if self.path is None else self.path.stat().st_size

    @property
    def identity(self) -> tuple[str, int, int]:
        """Name, size and time of the last change: differs whenever the content does, without reading it."""
        if self.path is None:
            return f"{self.name} {self.source.version}", 0, 0
        status = self.path.stat()
        return str(self.path.absolute()), status.st_size, status.st_mtime_ns


class Source(ABC):
    """A kind of corpus.

    Attributes:
        label: how help and error texts list it.
        alone: it can't be mixed with other sources.
        in_folders: files with its suffix are read where a folder is named.
        size: bytes of what is no file, None where that is not known beforehand.
        version: tells one content of what is no file from another.
    """

    label: ClassVar[str]
    alone: ClassVar[bool] = False
    in_folders: ClassVar[bool] = True
    size: ClassVar[int | None] = None
    version: ClassVar[str] = ""

    def resolve(self, word: str) -> list[SourceFile]:
        """Everything that a word of ``--data`` names, in a fixed order; nothing is read.

        A kind that is found by the suffix of its files is asked for one file at a time.
        """
        return [SourceFile(word, Path(word), self)]

    @abstractmethod
    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """The documents of a file, one by one.

        Args:
            file: from ``resolve``.
            text_field: column that holds the text, where there are columns.
            advance: is told how many bytes were read, now and then.

        Raises:
            DataError: naming what is damaged or lacks the field.
            OSError: as it comes; the caller names the file.
        """


class Row(NamedTuple):
    """A row of a table."""

    name: str
    """The file and the number of the row or line, from 1, for messages."""
    values: dict[str, Any]
    """Column to value."""


class Table(Source):
    """A kind of corpus in rows with columns, of which one holds the text."""

    @abstractmethod
    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """The rows of a file, one by one.

        Args:
            file: from ``resolve``.
            columns: names of those that are used; others may be left out. Empty: all. Rows may lack them.
            advance: is told how many bytes were read, now and then.

        Raises:
            DataError: naming what is damaged.
            OSError: as it comes; the caller names the file.
        """

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """The rows: each is a document.

        Raises:
            DataError: as ``rows``, or if a row has no text.
        """
        for row in self.rows(file, [text_field], advance):
            yield Document(row.name, [text_of(row, text_field)])


def path_of(file: SourceFile) -> Path:
    """The path of a source that is a file.

    Raises:
        DataError: if it is not.
    """
    if file.path is None:
        raise DataError(f"{file.name} is not a file")
    return file.path


def read_lines(stream: IO[AnyStr], name: str) -> Iterator[AnyStr]:
    """Yield the lines of a file, none of which is read beyond the longest that is allowed.

    Raises:
        DataError: naming a line that is longer.
    """
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"{name} line {number} is longer than {LONGEST_LINE:,} characters: divide it into rows"
            )
        yield line


def check_unique(names: Sequence[str], source: str = "") -> None:
    """Refuse a table or an object that names a column twice, because only one of them could be read.

    Args:
        names: names of the columns.
        source: beginning of the message.

    Raises:
        DataError: naming the first such column.
    """
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise DataError(f"{source}has the column {twice!r} twice: rename or remove one of the two")


def text_of(row: Row, text_field: str) -> str:
    """The text in a row of a table.

    Raises:
        DataError: naming the row and listing its fields, if there is none, or if it is no Unicode text.
    """
    text = row.values.get(text_field)
    if not isinstance(text, str):
        known = ", ".join(map(str, row.values)) or "none"
        raise DataError(
            f"{row.name} has no text in field {text_field!r} (its fields: {known}); set text_field"
        )
    return unicode_of(row, text)


def unicode_of(row: Row, text: str) -> str:
    """Return a value of a row unchanged.

    Raises:
        DataError: naming the row, if the value holds lone surrogates, which can't be encoded or printed.
    """
    try:
        check_unicode(text)
    except TokenizerError as error:
        raise DataError(f"{row.name}: {error}") from None
    return text


def first_line(error: Exception) -> str:
    """The first line of a library's error, or the error's name where it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
