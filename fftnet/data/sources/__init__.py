"""The table of sources, and how the words of ``--data`` are looked up in it."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from fftnet.data.errors import DataError
from fftnet.data.sources import text
from fftnet.data.sources.base import Document, Source, SourceFile
from fftnet.data.sources.builtin import PythonDocs, PythonSource
from fftnet.data.sources.hub import HuggingFace
from fftnet.data.sources.jsonl import JsonLines
from fftnet.data.sources.parquet import Parquet
from fftnet.data.sources.special import Synthetic, Tokens
from fftnet.data.walk import walk_files

__all__ = [
    "SOURCES",
    "SYNTHETIC",
    "TOKENS",
    "Document",
    "Source",
    "SourceFile",
    "describe_sources",
    "find_source",
    "resolve",
]

SYNTHETIC = "synthetic"
TOKENS = ".tokens"
TEXT = text.Text()
SOURCES: dict[str, Source] = {
    SYNTHETIC: Synthetic(),
    "python-docs": PythonDocs(),
    "python-source": PythonSource(),
    "hf:": HuggingFace(),
    **dict.fromkeys(text.SUFFIXES, TEXT),
    ".jsonl": JsonLines(),
    ".parquet": Parquet(),
    TOKENS: Tokens(),
}
"""Kinds of sources by name, by prefix (which ends in a colon) or by suffix of their files (begins with a
dot); a file of another suffix is text."""


def describe_sources() -> str:
    """All kinds of sources in words, for help and error texts."""
    return ", ".join(dict.fromkeys(source.label for source in SOURCES.values()))


def find_source(word: str) -> Source:
    """The kind of source that a word of ``--data`` names."""
    return _named(word) or _by_suffix(Path(word))


def resolve(words: Sequence[str]) -> list[SourceFile]:
    """Return the files that the words of ``--data`` name, each once, in a fixed order; nothing is read.

    A file that is named twice, spelled otherwise or through a link, would lie in two splits.

    Raises:
        DataError: if one of them names nothing that is there.
    """
    files: dict[str, SourceFile] = {}
    for word in words:
        source = _named(word)
        found = source.resolve(word) if source else _resolve_paths(word)
        for file in found:
            files.setdefault(file.name if file.path is None else os.path.realpath(file.path), file)
    return list(files.values())


def _named(word: str) -> Source | None:
    """The source that goes by this name, or by its prefix."""
    for key in (word, word.partition(":")[0] + ":"):
        if key in SOURCES and not key.startswith("."):
            return SOURCES[key]
    return None


def _resolve_paths(word: str) -> list[SourceFile]:
    return [file for path in _paths(word) for file in _by_suffix(path).resolve(str(path))]


def _by_suffix(path: Path) -> Source:
    return SOURCES.get(path.suffix.lower(), TEXT)


def _paths(word: str) -> list[Path]:
    path = Path(word)
    if path.is_dir():
        suffixes = [key for key, source in SOURCES.items() if key.startswith(".") and source.in_folders]
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
