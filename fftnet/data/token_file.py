"""The file of a tokenized text: mapped into memory, so that what is not looked at is not read.

It is a header of 4096 bytes (magic, length and SHA-256 of the JSON behind them) and three arrays: ids as
uint16 or uint32, and from the next multiple of 8 bytes on, as uint64, where documents and where segments end;
see ``fftnet.data.split_view.TokenArrays``.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.split_view import TokenArrays
from fftnet.data.tokenization import id_dtype
from fftnet.protocols import TextEncoder

MAGIC = b"FFTNETtk"
VERSION = 2
HEADER_BYTES = 4096
DTYPES = ("uint16", "uint32")
MAX_COUNT = 2**48
"""Far above the tokens of every file; keeps sizes in bytes within 64 bits."""
BLOCK = 2**20
"""Ids that are checked at once."""


@dataclass(frozen=True)
class Header:
    """The header of a token file."""

    version: int
    tokenizer: str
    """Fingerprint of the tokenizer."""
    sources: str
    """SHA-256 of the names, sizes and times of what was read."""
    dtype: str
    """uint16 or uint32, of the ids."""
    num_tokens: int
    num_documents: int
    num_segments: int
    text: str | None = None
    """Digest of the text by ``fftnet.data.digest.TextDigest``; None in a file of an earlier version."""

    @property
    def ends_at(self) -> int:
        """Byte at which the ends of documents begin."""
        end = HEADER_BYTES + self.num_tokens * np.dtype(self.dtype).itemsize
        return -(-end // 8) * 8

    @property
    def file_bytes(self) -> int:
        """Size of a whole file."""
        return self.ends_at + 8 * (self.num_documents + self.num_segments)


@dataclass(frozen=True)
class TokenFile:
    """A token file, mapped into memory."""

    path: Path
    header: Header
    arrays: TokenArrays


def open_tokens(path: Path, tokenizer: TextEncoder) -> TokenFile:
    """Map a token file, after reading it once to check its ids.

    Raises:
        DataError: saying whether it is missing, truncated, damaged, or made with another tokenizer.
    """
    header = _read_header(path)
    if header.tokenizer != tokenizer.fingerprint:
        raise DataError(f"{path} was made with another tokenizer than {tokenizer.name!r}")
    _check_ids(path, header, tokenizer)
    tokens = np.memmap(path, header.dtype, "r", HEADER_BYTES, (header.num_tokens,))
    num_ends = header.num_documents + header.num_segments
    ends = np.memmap(path, np.uint64, "r", header.ends_at, (num_ends,))
    arrays = TokenArrays(tokens, ends[: header.num_documents], ends[header.num_documents :])
    for each in (arrays.document_ends, arrays.segment_ends):
        if each[0] < 1 or each[-1] > header.num_tokens or (each[1:] < each[:-1]).any():
            raise DataError(f"{path} is damaged: the ends of its documents or segments are not in order")
    return TokenFile(path, header, arrays)


def write_tokens(
    path: Path,
    parts: Iterable[TokenArrays],
    tokenizer: TextEncoder,
    sources: str,
    text: Callable[[], str],
) -> None:
    """Write a token file; an older one stays until the new one is whole.

    Args:
        path: in a folder that exists.
        parts: from ``fftnet.data.tokenization.tokenize_parts``; their errors pass through.
        tokenizer: that made them.
        sources: see ``Header``.
        text: returns the digest of the text; called once all parts are written.

    Raises:
        OSError: if it can't be written; nothing half-written is left.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    folder = temporary.parent
    try:
        with (
            temporary.open("wb") as file,
            tempfile.TemporaryFile(dir=folder) as document_ends,
            tempfile.TemporaryFile(dir=folder) as segment_ends,
        ):
            file.write(bytes(HEADER_BYTES))
            for part in parts:
                file.write(part.tokens.data)
                document_ends.write(part.document_ends.data)
                segment_ends.write(part.segment_ends.data)
            dtype = id_dtype(tokenizer)
            header = Header(
                version=VERSION,
                tokenizer=tokenizer.fingerprint,
                sources=sources,
                dtype=dtype.name,
                num_tokens=(file.tell() - HEADER_BYTES) // dtype.itemsize,
                num_documents=document_ends.tell() // 8,
                num_segments=segment_ends.tell() // 8,
                text=text(),
            )
            _complete(file, header, (document_ends, segment_ends))
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _complete(file: BinaryIO, header: Header, ends: Iterable[IO[bytes]]) -> None:
    """Write what stands behind the ids and before them."""
    file.write(bytes(header.ends_at - file.tell()))
    for each in ends:
        each.seek(0)
        shutil.copyfileobj(each, file)
    file.seek(0)
    file.write(_header_bytes(header))
    file.flush()
    os.fsync(file.fileno())


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
    text = head[start : start + int.from_bytes(head[len(MAGIC) : len(MAGIC) + 8], "little")]
    if hashlib.sha256(text).digest() != head[start - 32 : start]:
        raise DataError(f"the header of {path} is damaged")
    header = _parsed(text, path)
    if size != header.file_bytes:
        raise DataError(f"{path} is truncated: it has {size} bytes of {header.file_bytes}")
    return header


def _parsed(text: bytes, path: Path) -> Header:
    """Return the header that JSON describes.

    Raises:
        DataError: naming the first field that is missing, unknown, or of another type or range.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the header of {path} is damaged: it is not JSON") from error
    if not isinstance(values, dict):
        raise DataError(f"the header of {path} is damaged: it is not an object")
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise DataError(f"{path} is a token file of version {version!r}, this is version {VERSION}")
    unknown = sorted(values.keys() - {field.name for field in fields(Header)})
    if unknown:
        raise DataError(f"the header of {path} is damaged: it has the unknown field {unknown[0]!r}")
    for field in fields(Header):
        value = values.get(field.name, field.default)
        if not _is_valid(field.name, value):
            found = "missing" if value is MISSING else repr(value)
            raise DataError(f"the header of {path} is damaged: its {field.name} is {found}")
    return Header(**values)


def _is_valid(name: str, value: object) -> bool:
    if name == "version":
        return value == VERSION
    if name == "dtype":
        return value in DTYPES
    if name.startswith("num_"):
        return type(value) is int and 0 < value < MAX_COUNT
    return isinstance(value, str) or (name == "text" and value is None)


def _check_ids(path: Path, header: Header, tokenizer: TextEncoder) -> None:
    """Refuse ids that the tokenizer does not have, with which a model would crash.

    Raises:
        DataError: naming the first block's largest such id.
    """
    if np.iinfo(header.dtype).max < tokenizer.vocab_size:
        return
    # Read, not mapped: pages of a map would count as memory of the process.
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        for start in range(0, header.num_tokens, BLOCK):
            block = np.fromfile(file, header.dtype, min(BLOCK, header.num_tokens - start))
            largest = int(block.max(initial=0))
            if largest >= tokenizer.vocab_size:
                raise DataError(
                    f"{path} is damaged: it holds the id {largest}, and {tokenizer.name!r} has ids below "
                    f"{tokenizer.vocab_size}; make it again from its text"
                )


def _header_bytes(header: Header) -> bytes:
    """The 4096 bytes that a token file starts with."""
    text = json.dumps(asdict(header)).encode()
    start = MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    return (start + text).ljust(HEADER_BYTES, b"\0")
