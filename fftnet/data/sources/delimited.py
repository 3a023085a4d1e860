"""Tables as text: fields between commas or tabs, their names in the first line."""

import csv
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from typing import ClassVar

from fftnet.data.errors import DataError
from fftnet.data.sources.base import (
    LONGEST_LINE,
    Advance,
    Row,
    SourceFile,
    Table,
    check_unique,
    path_of,
    read_lines,
)

DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}
"""What stands between fields in tables at large, and its name."""


class Delimited(Table):
    """Rows in which a field with a delimiter, a quotation mark or a line break stands in quotation marks.

    Args:
        delimiter: between two fields.
    """

    label: ClassVar[str] = "a .csv or .tsv file"

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """The rows behind the header; they are called by the line that they end in."""
        csv.field_size_limit(LONGEST_LINE)
        with path_of(file).open("rb") as raw, TextIOWrapper(raw, "utf-8-sig", newline="") as stream:
            lines = read_lines(stream, file.name)
            reader = csv.DictReader(lines, delimiter=self._delimiter, strict=True)
            read = 0
            try:
                self._check_names(file, reader.fieldnames or ())
                for values in reader:
                    name = f"{file.name} line {reader.line_num}"
                    if None in values or None in values.values():
                        count = len(reader.fieldnames or ())
                        raise DataError(f"{name} has not {count} fields as the first line: quote its text")
                    advance(raw.tell() - read)
                    read = raw.tell()
                    yield Row(name, dict(values))
            except UnicodeDecodeError as error:
                where = f"{file.name} is not UTF-8 text after line {reader.line_num}"
                raise DataError(f"{where}: convert it or leave it out") from error
            except csv.Error as error:
                raise DataError(f"{file.name} line {reader.reader.line_num} is no table: {error}") from error

    def _check_names(self, file: SourceFile, names: Sequence[str]) -> None:
        # Several columns without a name are what a spreadsheet leaves; nobody can ask for one.
        check_unique([name for name in names if name], f"{file.name} ")
        for delimiter, name in DELIMITERS.items():
            if len(names) == 1 and delimiter in names[0]:
                wanted = DELIMITERS[self._delimiter]
                raise DataError(
                    f"{file.name} has {name} between its fields, where {wanted} belongs: a .csv has commas, "
                    "a .tsv tabs"
                )
