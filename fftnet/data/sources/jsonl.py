"""JSON lines: a line is a document."""

import json
from collections.abc import Iterator
from typing import Any

from fftnet.data.errors import DataError
from fftnet.data.sources.base import Advance, Document, Source, SourceFile, path_of, text_of


class JsonLines(Source):
    """An object a line, of which one field is the text."""

    label = "a .jsonl file"

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """The lines that are not blank."""
        with path_of(file).open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                advance(len(line))
                if line.strip():
                    name = f"{file.name} line {number}"
                    yield Document(name, [text_of(_parsed(line, name), text_field, name)])


def _parsed(line: bytes, name: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        what = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"JSON ({error})"
        raise DataError(f"{name} is not {what}: repair it or leave it out") from error
