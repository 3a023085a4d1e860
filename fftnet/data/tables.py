"""Rows with columns, from the words of ``--data``: one way for everything that needs more than a text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fftnet.data.errors import DataError
from fftnet.data.sources import resolve
from fftnet.data.sources.base import Row, SourceFile, Table
from fftnet.data.sources.delimited import Delimited

DELIMITED: dict[str, Table] = {".csv": Delimited(","), ".tsv": Delimited("\t")}
"""Suffixes of tables that are plain text where only text is asked for."""
KINDS = ".jsonl, .csv, .tsv, .parquet, or hf:NAME of a Hugging Face dataset"


def read_rows(words: Sequence[str], columns: Sequence[str]) -> Iterator[Row]:
    """All rows that the words name, in a fixed order.

    Args:
        words: files, folders, globs and ``hf:`` datasets.
        columns: names of those that are used; empty: all.

    Raises:
        DataError: if a word names nothing that is there, or no table, or a file is damaged.
    """
    for file in resolve(words):
        table = _table(file)
        try:
            yield from table.rows(file, columns, lambda count: None)
        except OSError as error:
            raise DataError(f"{file.name} could not be read: {error.strerror or error}") from error


def _table(file: SourceFile) -> Table:
    if isinstance(file.source, Table):
        return file.source
    suffix = Path(file.name).suffix.lower()
    if suffix not in DELIMITED:
        raise DataError(f"{file.name} has no columns: name a table ({KINDS})")
    return DELIMITED[suffix]
