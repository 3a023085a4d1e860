"""Token files: a large text is tokenized once into the cache folder, and later runs map it into memory.

A token file is a header of 4096 bytes (magic, length and SHA-256 of the JSON behind them) and three arrays:
ids as uint16 or uint32, and from the next multiple of 8 bytes on, as uint64, the ends of documents and of
segments; see ``fftnet.data.tokens.TokenArrays``.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fftnet.data.config import DataConfig
from fftnet.data.errors import DataError
from fftnet.data.sources import TOKENS, SourceFile
from fftnet.data.splits import read_chunks, segments
from fftnet.data.tokens import TokenArrays, id_dtype, tokenize_parts
from fftnet.fields import check_fields, check_range
from fftnet.locks import locked
from fftnet.protocols import TextEncoder

MAGIC = b"FFTNETtk"
VERSION = 2
HEADER_BYTES = 4096
DTYPES = ("uint16", "uint32")
MAX_TOKENS = 2**48 - 1
"""Largest count in a header; keeps sizes in bytes within 64 bits."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """The header of a token file; a field of another type or out of range is a ValueError."""

    version: int
    tokenizer: str
    """Fingerprint of the tokenizer."""
    sources: str
    """SHA-256 of names, sizes and times of the files that were read."""
    dtype: str
    """Dtype of the ids: uint16 or uint32."""
    num_tokens: int
    num_documents: int
    num_segments: int
    text: str | None = None
    """Digest of the text, see ``TokenArrays``; None in a file of an earlier version."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_TOKENS, "num_tokens", "num_documents", "num_segments")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def ends_at(self) -> int:
        """Byte at which the ends of documents begin."""
        end = HEADER_BYTES + self.num_tokens * np.dtype(self.dtype).itemsize
        return -(-end // 8) * 8

    @property
    def file_bytes(self) -> int:
        """Size of the complete file, in bytes."""
        return self.ends_at + 8 * (self.num_documents + self.num_segments)


def user_cache() -> Path:
    """Return the folder ``fftnet`` in the user's cache folder, which XDG_CACHE_HOME names."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "fftnet"


def cache_path(config: DataConfig, tokenizer: TextEncoder) -> Path:
    """Return the path of the token file of a configuration, from the names of sources and tokenizer alone."""
    places = [os.path.abspath(source) for source in config.data]
    # Neither times nor content: an outdated file is found under the same name and replaced.
    key = json.dumps([places, config.data, config.text_field, tokenizer.name])
    stem = "".join(c if c.isalnum() else "-" for c in Path(config.data[0]).stem)[:40]
    name = f"{stem}-{tokenizer.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{TOKENS}"
    return (Path(config.cache_dir) if config.cache_dir else user_cache()) / name


def cached_tokens(config: DataConfig, files: Sequence[SourceFile], tokenizer: TextEncoder) -> TokenArrays:
    """Open the token file of a configuration; make it first if no valid one exists. The log says why."""
    path = cache_path(config, tokenizer)
    # Files are compared by size and time: reading all of a large text would take as long as tokenizing.
    sources = _identity(files, config.text_field)
    with suppress(DataError):
        return open_tokens(path, tokenizer, sources)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One process makes the file; the others wait for the lock, and then find it.
        with locked(path.with_name(f"{path.name}.lock"), wait=True):
            try:
                return open_tokens(path, tokenizer, sources)
            except DataError as error:
                if path.exists():
                    logger.info("%s: tokenizing again", error)
            logger.info("tokenizing %s into %s", ", ".join(config.data), path)
            write_tokens(path, _tokenize_files(config, files, tokenizer, sources), tokenizer, sources)
    except OSError as error:
        raise DataError(
            f"the token file {path} could not be written ({error.strerror}): free some space or choose "
            "another --cache_dir; nothing half-written is left"
        ) from error
    return open_tokens(path, tokenizer, sources)


def _tokenize_files(
    config: DataConfig, files: Sequence[SourceFile], tokenizer: TextEncoder, sources: str
) -> Iterator[TokenArrays]:
    # A terminal is kept up to date; a log file gets a line a minute.
    pause = 0.1 if sys.stderr.isatty() else 60.0
    size = total_bytes(files)
    with tqdm(total=size, unit="B", unit_scale=True, mininterval=pause, dynamic_ncols=True) as bar:
        chunks = read_chunks(files, config.text_field, bar.update)
        yield from tokenize_parts(segments(chunks), tokenizer)
    # Raised before the file is complete, so that a mixture of two versions is never taken for either.
    if _identity(files, config.text_field) != sources:
        raise DataError(f"{', '.join(config.data)} changed while it was read: run again")


def total_bytes(files: Sequence[SourceFile]) -> int | None:
    """Return the size of all files in bytes; None if one of them is unknown."""
    sizes = [file.size for file in files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def open_tokens(path: Path, tokenizer: TextEncoder, sources: str | None = None) -> TokenArrays:
    """Map a token file into memory and check it; sources that are None are not compared."""
    header = _read_header(path)
    if header.tokenizer != tokenizer.fingerprint:
        raise DataError(f"{path} was made with another tokenizer than {tokenizer.name!r}")
    if sources is not None and header.sources != sources:
        raise DataError(f"{path} was made before its sources changed")
    if sources is not None and header.text is None:
        raise DataError(f"{path} was made by an earlier version, without a digest of the text")
    _check_ids(path, header, tokenizer)
    tokens = np.memmap(path, header.dtype, "r", HEADER_BYTES, (header.num_tokens,))
    num_ends = header.num_documents + header.num_segments
    ends = np.memmap(path, np.uint64, "r", header.ends_at, (num_ends,))
    document_ends, segment_ends = ends[: header.num_documents], ends[header.num_documents :]
    for each in (document_ends, segment_ends):
        if each[0] < 1 or each[-1] > header.num_tokens or (each[1:] < each[:-1]).any():
            raise DataError(f"{path} is damaged: the ends of its documents or segments are not in order")
    return TokenArrays(tokens, document_ends, segment_ends, header.text)


def write_tokens(path: Path, parts: Iterable[TokenArrays], tokenizer: TextEncoder, sources: str) -> None:
    """Write a tokenized text to a token file; an older one stays until the new one is complete."""
    # The complete file gets its name by one rename, so that a killed process leaves no part under that name.
    temporary = path.with_name(f"{path.name}.tmp")
    dtype = id_dtype(tokenizer)
    document_ends: list[np.ndarray] = []
    segment_ends: list[np.ndarray] = []
    digest = None
    try:
        with temporary.open("wb") as file:
            file.write(bytes(HEADER_BYTES))
            for part in parts:
                file.write(part.tokens.data)
                document_ends.append(part.document_ends)
                segment_ends.append(part.segment_ends)
                digest = part.digest
            ends = [np.concatenate(each) for each in (document_ends, segment_ends)]
            header = Header(
                version=VERSION,
                tokenizer=tokenizer.fingerprint,
                sources=sources,
                dtype=dtype.name,
                num_tokens=(file.tell() - HEADER_BYTES) // dtype.itemsize,
                num_documents=len(ends[0]),
                num_segments=len(ends[1]),
                text=digest,
            )
            file.write(bytes(header.ends_at - file.tell()))
            for each in ends:
                file.write(each.data)
            # The header comes last: without it, a file is not taken for a token file.
            file.seek(0)
            text = json.dumps(asdict(header)).encode()
            file.write(MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _identity(files: Sequence[SourceFile], text_field: str) -> str:
    digest = hashlib.sha256(text_field.encode())
    for file in files:
        try:
            # A file may vanish between resolving and reading.
            digest.update(json.dumps(file.identity).encode())
        except OSError as error:
            raise DataError(f"{file.name} can't be read: {error.strerror}") from error
    return digest.hexdigest()


def _read_header(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    if not head.startswith(MAGIC):
        raise DataError(f"{path} is not a token file or its header is damaged")
    start = len(MAGIC) + 8 + 32
    # A wild length is cut by the slice, and the checksum then differs.
    text = head[start : start + int.from_bytes(head[len(MAGIC) : len(MAGIC) + 8], "little")]
    if hashlib.sha256(text).digest() != head[start - 32 : start]:
        raise DataError(f"the header of {path} is damaged")
    try:
        values = json.loads(text)
        version = values.get("version")
        header = Header(**values) if version == VERSION else None
    # JSON of another form, or fields that are missing, unknown or wrong.
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"the header of {path} is damaged: {error}") from error
    if header is None:
        raise DataError(f"{path} is a token file of version {version!r}, this is version {VERSION}")
    if size != header.file_bytes:
        raise DataError(f"{path} is truncated: it has {size} bytes of {header.file_bytes}")
    return header


def _check_ids(path: Path, header: Header, tokenizer: TextEncoder) -> None:
    """Refuse ids that the tokenizer does not have: they would crash a model."""
    # All values of the dtype are valid ids.
    if np.iinfo(header.dtype).max < tokenizer.vocab_size:
        return
    # Read in blocks, not mapped: pages of a map would count as memory of the process.
    size = 2**20
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        for start in range(0, header.num_tokens, size):
            block = np.fromfile(file, header.dtype, min(size, header.num_tokens - start))
            largest = int(block.max(initial=0))
            if largest >= tokenizer.vocab_size:
                raise DataError(
                    f"{path} is damaged: it holds the id {largest}, and {tokenizer.name!r} has ids below "
                    f"{tokenizer.vocab_size}; make it again from its text"
                )
