"""Tables: rows with columns, of which one holds the text. JSON lines and delimited text are read here."""

import csv
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from typing import IO, Any, AnyStr, ClassVar, NamedTuple

from fftnet.data.encodings import check_unicode
from fftnet.data.errors import DataError, TokenizerError
from fftnet.data.sources.base import Advance, Document, Source, SourceFile, path_of

LONGEST_LINE = 2**28
"""Maximum bytes or characters of a line or field; a longer one is damaged and would fill the memory."""
DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}
"""Common delimiters of fields, and their names."""


class Row(NamedTuple):
    """A row of a table."""

    name: str
    """File and number of the row or line, from 1, for messages."""
    values: dict[str, Any]
    """Column to value."""


class Table(Source):
    """A kind of corpus in rows with columns, of which one holds the text."""

    @abstractmethod
    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """Yield the rows of a file one by one, with arguments and errors as in ``read``.

        Columns other than these may be left out, unless there are none. Rows may lack columns.
        """

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Yield each row as a document."""
        for row in self.rows(file, [text_field], advance):
            yield Document(row.name, [text_of(row, text_field)])


class JsonLines(Table):
    """Rows that are JSON objects, one a line."""

    label = "a .jsonl file"

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """Yield the lines that are not blank."""
        with path_of(file).open("rb") as stream:
            for number, line in enumerate(read_lines(stream, file.name), start=1):
                advance(len(line))
                if line.strip():
                    name = f"{file.name} line {number}"
                    yield Row(name, _parse(line, name))


class Delimited(Table):
    """Rows of text fields; a field with a delimiter, a quotation mark or a line break is quoted."""

    label: ClassVar[str] = "a .csv or .tsv file"

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """Yield the rows after the header, named by the line that they end in."""
        csv.field_size_limit(LONGEST_LINE)
        with path_of(file).open("rb") as raw, TextIOWrapper(raw, "utf-8-sig", newline="") as stream:
            # The reader takes lines, so that a field that is never closed can't fill the memory either.
            lines = read_lines(stream, file.name)
            reader = csv.DictReader(lines, delimiter=self._delimiter, strict=True)
            read = 0
            try:
                self._check_names(file, reader.fieldnames or ())
                for values in reader:
                    name = f"{file.name} line {reader.line_num}"
                    # The reader puts surplus fields under None, and None into missing ones.
                    if None in values or None in values.values():
                        count = len(reader.fieldnames or ())
                        raise DataError(f"{name} has not {count} fields as the first line: quote its text")
                    # The position is ahead of the rows by a buffer: close enough for a progress bar.
                    advance(raw.tell() - read)
                    read = raw.tell()
                    yield Row(name, dict(values))
            except UnicodeDecodeError as error:
                where = f"{file.name} is not UTF-8 text after line {reader.line_num}"
                raise DataError(f"{where}: convert it or leave it out") from error
            except csv.Error as error:
                raise DataError(f"{file.name} line {reader.reader.line_num} is no table: {error}") from error

    def _check_names(self, file: SourceFile, names: Sequence[str]) -> None:
        # Spreadsheets leave several columns without a name, which nobody can ask for.
        check_unique([name for name in names if name], f"{file.name} ")
        for delimiter, name in DELIMITERS.items():
            if len(names) == 1 and delimiter in names[0]:
                wanted = DELIMITERS[self._delimiter]
                raise DataError(
                    f"{file.name} has {name} between its fields, where {wanted} belongs: a .csv has commas, "
                    "a .tsv tabs"
                )


def read_lines(stream: IO[AnyStr], name: str) -> Iterator[AnyStr]:
    """Yield the lines of a file, reading no line beyond the maximum length."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"{name} line {number} is longer than {LONGEST_LINE:,} characters: divide it into rows"
            )
        yield line


def check_unique(names: Sequence[str], source: str = "") -> None:
    """Refuse columns of which two have the same name, because only one of the two could be read."""
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise DataError(f"{source}has the column {twice!r} twice: rename or remove one of the two")


def text_of(row: Row, text_field: str) -> str:
    """Return the text in a row."""
    text = row.values.get(text_field)
    if not isinstance(text, str):
        raise missing_field(row, "text", text_field)
    return unicode_of(row, text)


def missing_field(row: Row, kind: str, field: str) -> DataError:
    """Return the error of a row without a text or a label in its field, which lists its fields."""
    known = ", ".join(map(str, row.values)) or "none"
    return DataError(f"{row.name} has no {kind} in field {field!r} (its fields: {known}); set {kind}_field")


def unicode_of(row: Row, text: str) -> str:
    """Return a value of a row unchanged."""
    try:
        check_unicode(text)
    except TokenizerError as error:
        raise DataError(f"{row.name}: {error}") from None
    return text


def _parse(line: bytes, name: str) -> dict[str, Any]:
    try:
        # Some programs begin a file with a byte order mark, which utf-8-sig skips.
        value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique)
    except DataError as error:
        raise DataError(f"{name} {error}") from None
    except (ValueError, RecursionError) as error:
        what = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"JSON ({error})"
        raise DataError(f"{name} is not {what}: repair it or leave it out") from error
    # Anything but an object has no fields: the error of the missing field says so.
    return value if isinstance(value, dict) else {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    check_unique([key for key, _ in pairs])
    return dict(pairs)
