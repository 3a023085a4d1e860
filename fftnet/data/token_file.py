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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
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
    """Map a token file.

    Raises:
        DataError: saying whether it is missing, truncated, damaged, or made with another tokenizer.
    """
    header = _read_header(path)
    if header.tokenizer != tokenizer.fingerprint:
        raise DataError(f"{path} was made with another tokenizer than {tokenizer.name!r}")
    tokens = np.memmap(path, header.dtype, "r", HEADER_BYTES, (header.num_tokens,))
    num_ends = header.num_documents + header.num_segments
    ends = np.memmap(path, np.uint64, "r", header.ends_at, (num_ends,))
    arrays = TokenArrays(tokens, ends[: header.num_documents], ends[header.num_documents :])
    return TokenFile(path, header, arrays)


def write_tokens(path: Path, parts: Iterable[TokenArrays], tokenizer: TextEncoder, sources: str) -> None:
    """Write a token file; an older one stays until the new one is whole.

    Args:
        path: in a folder that exists.
        parts: from ``fftnet.data.tokenization.tokenize_parts``; their errors pass through.
        tokenizer: that made them.
        sources: see ``Header``.

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
    values = json.loads(text)
    if values["version"] != VERSION:
        raise DataError(f"{path} is a token file of version {values['version']}, this is version {VERSION}")
    header = Header(**values)
    if size != header.file_bytes:
        raise DataError(f"{path} is truncated: it has {size} bytes of {header.file_bytes}")
    return header


def _header_bytes(header: Header) -> bytes:
    """The 4096 bytes that a token file starts with."""
    text = json.dumps(asdict(header)).encode()
    start = MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    return (start + text).ljust(HEADER_BYTES, b"\0")
