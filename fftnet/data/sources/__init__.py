"""The table of sources, and the lookup of the words of ``--data`` in it."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fftnet.data.errors import DataError
from fftnet.data.files import walk_files
from fftnet.data.sources.base import Source, SourceFile
from fftnet.data.sources.hub import HuggingFace
from fftnet.data.sources.parquet import Parquet
from fftnet.data.sources.tables import Delimited, JsonLines, Row, Table
from fftnet.data.sources.text import SUFFIXES, PythonDocs, PythonSource, Synthetic, Text, Tokens

SYNTHETIC = "synthetic"
TOKENS = ".tokens"
TEXT = Text()
SOURCES: dict[str, Source] = {
    SYNTHETIC: Synthetic(),
    "python-docs": PythonDocs(),
    "python-source": PythonSource(),
    "hf:": HuggingFace(),
    **dict.fromkeys(SUFFIXES, TEXT),
    ".jsonl": JsonLines(),
    ".parquet": Parquet(),
    TOKENS: Tokens(),
}
"""Kinds of sources by name, by prefix (ends in a colon) or by suffix (begins with a dot; others are text)."""
DELIMITED: dict[str, Table] = {".csv": Delimited(","), ".tsv": Delimited("\t")}
"""Suffixes of tables that are read as plain text if only text is asked for."""


def describe_sources() -> str:
    """Return all kinds of sources in words, for help and error texts."""
    return ", ".join(dict.fromkeys(source.label for source in SOURCES.values()))


def find_source(word: str) -> Source:
    """Return the kind of source that a word of ``--data`` names."""
    return _by_name(word) or _by_suffix(Path(word))


def resolve(words: Sequence[str]) -> list[SourceFile]:
    """Return the files that the words of ``--data`` name, each once, in a fixed order."""
    # A file that is named twice, spelled differently or through a link, would otherwise lie in two splits.
    files: dict[str, SourceFile] = {}
    for word in words:
        source = _by_name(word)
        if source:
            found = source.resolve(word)
        else:
            found = [file for path in _paths(word) for file in _by_suffix(path).resolve(str(path))]
        for file in found:
            files.setdefault(file.name if file.path is None else os.path.realpath(file.path), file)
    return list(files.values())


def read_rows(words: Sequence[str], columns: Sequence[str]) -> Iterator[Row]:
    """Yield all rows of the tables that the words name, in a fixed order; no columns stands for all."""
    for file in resolve(words):
        source = file.source
        table = source if isinstance(source, Table) else DELIMITED.get(Path(file.name).suffix.lower())
        if table is None:
            kinds = ".jsonl, .csv, .tsv, .parquet, or hf:NAME of a Hugging Face dataset"
            raise DataError(f"{file.name} has no columns: name a table ({kinds})")
        try:
            yield from table.rows(file, columns, lambda count: None)
        except OSError as error:
            raise DataError(f"{file.name} could not be read: {error.strerror or error}") from error


def _by_name(word: str) -> Source | None:
    """Return the source with this name, or with the prefix of this word."""
    # A suffix is no name: a file called ".txt" is a path.
    for key in (word, word.partition(":")[0] + ":"):
        if key in SOURCES and not key.startswith("."):
            return SOURCES[key]
    return None


def _by_suffix(path: Path) -> Source:
    return SOURCES.get(path.suffix.lower(), TEXT)


def _paths(word: str) -> list[Path]:
    path = Path(word)
    # Files of other suffixes in a folder are probably not text.
    if path.is_dir():
        suffixes = [key for key, source in SOURCES.items() if key.startswith(".") and not source.alone]
        files = walk_files(path, suffixes)
        if not files:
            raise DataError(f"the folder {word} holds no text file ({' '.join(suffixes)})")
        return files
    if path.exists():
        return [path]
    files = sorted(p for p in map(Path, glob.glob(word, recursive=True)) if p.is_file())
    if not files:
        # A name with a suffix or a folder is meant as a path, not as a corpus.
        is_path = path.suffix or len(path.parts) > 1
        way_out = "check its path" if is_path else f"name a folder, a glob, or one of {describe_sources()}"
        raise DataError(f"{word} matches no file; {way_out}")
    return files
