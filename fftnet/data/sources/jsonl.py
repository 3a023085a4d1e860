"""JSON lines: a line is a row."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from fftnet.data.errors import DataError
from fftnet.data.sources.base import Advance, Row, SourceFile, Table, check_unique, path_of, read_lines


class JsonLines(Table):
    """An object a line."""

    label = "a .jsonl file"

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """The lines that are not blank."""
        with path_of(file).open("rb") as stream:
            for number, line in enumerate(read_lines(stream, file.name), start=1):
                advance(len(line))
                if line.strip():
                    name = f"{file.name} line {number}"
                    yield Row(name, _parsed(line, name))


def _parsed(line: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique)
    except DataError as error:
        raise DataError(f"{name} {error}") from None
    except (ValueError, RecursionError) as error:
        what = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"JSON ({error})"
        raise DataError(f"{name} is not {what}: repair it or leave it out") from error
    # What is no object has no fields, which whoever looks for one will say.
    return value if isinstance(value, dict) else {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    check_unique([key for key, _ in pairs])
    return dict(pairs)
