"""Texts piece by piece: files, folders, globs, JSON lines, Parquet, Hugging Face datasets, built-in corpora.

Nothing here holds more than a document of a table, or a section of a text file, in memory.
"""

import codecs
import glob
import json
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fftnet.errors import UserError

SYNTHETIC, PYTHON_DOCS, PYTHON_SOURCE, HUB = "synthetic", "python-docs", "python-source", "hf:"
JSON_LINES, PARQUET, TOKENS = ".jsonl", ".parquet", ".tokens"
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".csv", ".json", ".html", ".xml", ".py", ".c", ".h")
FOLDER_SUFFIXES = (*TEXT_SUFFIXES, JSON_LINES, PARQUET)
"""What is read in a folder; a file that is named on its own is always read, as text if nothing else fits."""
LOADERS = {".arrow": "arrow", ".csv": "csv", ".json": "json", JSON_LINES: "json", PARQUET: "parquet"}
"""How Hugging Face datasets calls the kinds of local files."""
SECTION = 2**18
"""Characters at which a long document is cut, so that it need not be in memory as a whole."""
SAFE_CUT = re.compile(r"(?<=\S)(?= [^\W\d_])")
"""No encoding puts a token across the place before a single space and a letter."""
READ_BYTES = 2**20


class DataError(UserError, ValueError):
    """Data can't be read or used; the message names the source and the way out."""


@dataclass(frozen=True)
class Document:
    """One text and where it is from."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A piece of a document; most documents are a single one."""

    name: str
    text: str
    last: bool
    """Whether the document ends here."""


@dataclass(frozen=True)
class Origin:
    """Something that documents are read from."""

    name: str
    path: Path | None
    """None where it is no file."""

    @property
    def size(self) -> int | None:
        """Bytes of the file; 0 for a built-in corpus, None for a dataset of unknown size."""
        if self.path is not None:
            return self.path.stat().st_size
        return None if self.name.startswith(HUB) else 0

    @property
    def identity(self) -> tuple[str, int, int]:
        """Changes whenever the content does, without reading it: name, size and time of the last change.

        A dataset of a hub goes by its name, which may hold a revision.
        """
        if self.path is not None:
            status = self.path.stat()
            return str(self.path.absolute()), status.st_size, status.st_mtime_ns
        return self.name if self.name.startswith(HUB) else f"{self.name} {sys.version}", 0, 0


def find(sources: Sequence[str]) -> list[Origin]:
    """Everything that the sources name, each file once, in a fixed order; nothing is read.

    Raises:
        DataError: if a source is not there.
    """
    origins: dict[str, Origin] = {}
    for source in sources:
        if source == PYTHON_DOCS or source.startswith(HUB):
            rest = source.removeprefix(HUB)
            path = Path(rest) if rest != source and Path(rest).is_file() else None
            found = [Origin(source, path)]
        else:
            files = _standard_library() if source == PYTHON_SOURCE else _files(source)
            found = [Origin(str(path), path) for path in files]
        origins.update({origin.name: origin for origin in found})
    return list(origins.values())


def sections(
    origin: Origin, text_field: str, advance: Callable[[int], object] = lambda count: None
) -> Iterator[Section]:
    """Read an origin piece by piece; rows without any text are passed over.

    Args:
        origin: from :func:`find`.
        text_field: column that holds the text, in JSON lines, Parquet and datasets.
        advance: is told how many bytes of the file were read, now and then.

    Raises:
        DataError: naming what is empty, damaged, not UTF-8, or lacks the field.
    """
    empty = True
    try:
        for name, blocks in _documents(origin, text_field, advance):
            for section in _cut(name, blocks):
                empty = False
                yield section
    except OSError as error:
        raise DataError(f"{origin.name} can't be read: {error.strerror or error}") from error
    if empty:
        raise DataError(f"{origin.name} is empty: leave it out")


def load_texts(sources: Sequence[str], text_field: str = "text") -> list[Document]:
    """Read every document that the sources name, each file once, in a fixed order.

    Raises:
        DataError: as :func:`find` and :func:`sections`.
    """
    documents: list[Document] = []
    for origin in find(sources):
        texts: list[str] = []
        for section in sections(origin, text_field):
            texts.append(section.text)
            if section.last:
                documents.append(Document(section.name, "".join(texts)))
                texts = []
    return documents


def _documents(
    origin: Origin, text_field: str, advance: Callable[[int], object]
) -> Iterator[tuple[str, Iterable[str]]]:
    if origin.name == PYTHON_DOCS:
        topics = import_module("pydoc_data.topics").topics
        yield from ((f"{PYTHON_DOCS}/{name}", [text]) for name, text in sorted(topics.items()))
    elif origin.name.startswith(HUB):
        for number, row in enumerate(_dataset_rows(origin), start=1):
            name = f"{origin.name} row {number}"
            yield name, [_field(row, text_field, name)]
    elif origin.path is None:
        raise DataError(f"{origin.name} is nothing that can be read")
    elif origin.path.suffix.lower() == JSON_LINES:
        yield from _json_lines(origin.path, text_field, advance)
    elif origin.path.suffix.lower() == PARQUET:
        yield from _parquet_rows(origin.path, text_field, advance)
    else:
        yield origin.name, _text_blocks(origin.path, advance)


def _cut(name: str, blocks: Iterable[str]) -> Iterator[Section]:
    buffer, cut = "", False
    for block in blocks:
        buffer += block
        while len(buffer) > 2 * SECTION:
            place = SAFE_CUT.search(buffer, SECTION, 2 * SECTION)
            at = place.start() if place else 2 * SECTION
            yield Section(name, buffer[:at], last=False)
            buffer, cut = buffer[at:], True
    if cut or buffer.strip():
        yield Section(name, buffer, last=True)


def _text_blocks(path: Path, advance: Callable[[int], object]) -> Iterator[str]:
    decoder, read, block = codecs.getincrementaldecoder("utf-8")(), 0, b"-"
    with path.open("rb") as file:
        while block:
            block = file.read(READ_BYTES)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = f"{path} is not UTF-8 text (byte {read - held + error.start})"
                raise DataError(f"{place}: convert it or leave it out") from error
            read += len(block)
            advance(len(block))
            yield text


def _json_lines(
    path: Path, text_field: str, advance: Callable[[int], object]
) -> Iterator[tuple[str, Iterable[str]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            advance(len(line))
            if not line.strip():
                continue
            name = f"{path} line {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                what = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"JSON ({error})"
                raise DataError(f"{name} is not {what}: repair it or leave it out") from error
            yield name, [_field(row, text_field, name)]


def _parquet_rows(
    path: Path, text_field: str, advance: Callable[[int], object]
) -> Iterator[tuple[str, Iterable[str]]]:
    parquet = _extra("pyarrow.parquet", f"{path} is Parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if text_field not in columns:
                _field(dict.fromkeys(columns), text_field, str(path))
            for batch in file.iter_batches(batch_size=256, columns=[text_field]):
                advance(path.stat().st_size * batch.num_rows // max(file.metadata.num_rows, 1))
                for row in batch.to_pylist():
                    number += 1
                    name = f"{path} row {number}"
                    yield name, [_field(row, text_field, name)]
    except DataError:
        raise
    # What pyarrow raises on a damaged file is a ValueError or an OSError without a number.
    except ValueError as error:
        raise DataError(f"{path} is not a whole Parquet file: {_first_line(error)}") from error


def _dataset_rows(origin: Origin) -> Iterator[Any]:
    datasets = _extra("datasets", f"{origin.name} is a Hugging Face dataset")
    name, *rest = origin.name.removeprefix(HUB).split(",")
    config, split = [*rest, "", ""][:2]
    name, _, revision = name.partition("@")
    try:
        if origin.path is not None:
            suffix = next((s.lower() for s in reversed(origin.path.suffixes) if s.lower() in LOADERS), "")
            kind, files = LOADERS.get(suffix, "text"), str(origin.path)
            yield from datasets.load_dataset(kind, data_files=files, split="train", streaming=True)
        elif (Path(name) / "dataset_info.json").is_file():
            yield from datasets.load_from_disk(name)
        else:
            yield from datasets.load_dataset(
                name, config or None, split=split or "train", revision=revision or None, streaming=True
            )
    except DataError:
        raise
    # Loading runs code of many libraries, each with exceptions of its own, over a network.
    except Exception as error:
        raise DataError(
            f"{origin.name} could not be loaded ({_first_line(error)}); a dataset is named "
            f"{HUB}NAME[@REVISION][,CONFIGURATION[,SPLIT]]"
        ) from error


def _extra(module: str, reason: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        missing = module.partition(".")[0]
        raise DataError(f"{reason}, which needs {missing}: pip install 'fftnet[corpora]'") from error


def _field(row: Any, text_field: str, name: str) -> str:
    text = row.get(text_field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        known = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
        raise DataError(f"{name} has no text in field {text_field!r} (its fields: {known}); set text_field")
    return text


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _standard_library() -> list[Path]:
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = ("asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging")
    more = ("multiprocessing", "unittest", "urllib", "xml")
    folders = [library, *(library / name for name in packages + more)]
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return [path for path in files if path.stat().st_size > 100]


def _files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in FOLDER_SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"the folder {source} holds no text file ({' '.join(FOLDER_SUFFIXES)})")
        return files
    if path.exists():
        return [path]
    files = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file())
    if not files:
        known = ", ".join((SYNTHETIC, PYTHON_DOCS, PYTHON_SOURCE, f"{HUB}NAME of a Hugging Face dataset"))
        raise DataError(f"{source} matches no file; name a text file, a folder, a glob, or one of {known}")
    return files
