"""The file of a tokenized text: mapped into memory, so that what is not looked at is not read.

It is a header of 4096 bytes (magic, length and SHA-256 of the JSON behind them), ids as uint16 or uint32,
and as uint64 where its units end; see :class:`fftnet.data.windows.Passages` for both.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fftnet.data.documents import DataError

MAGIC, VERSION, HEADER_BYTES = b"FFTNETtk", 1, 4096


class TextEncoder(Protocol):
    """The part of a tokenizer that data need."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that cut every text alike, and only for them."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def eot(self) -> int:
        """Id that ends a document, and which no text holds."""
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """uint32 ids of a text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts."""
        ...


@dataclass(frozen=True)
class Header:
    """What a token file says about itself."""

    version: int
    tokenizer: str
    """Fingerprint of the tokenizer."""
    sources: str
    """SHA-256 of the names, sizes and times of what was read."""
    dtype: str
    """uint16 or uint32, of the ids."""
    num_tokens: int
    num_units: int

    @property
    def units_at(self) -> int:
        """Byte at which the units begin."""
        end = HEADER_BYTES + self.num_tokens * np.dtype(self.dtype).itemsize
        return -(-end // 8) * 8

    @property
    def file_bytes(self) -> int:
        """Size of a whole file."""
        return self.units_at + self.num_units * 8


@dataclass(frozen=True)
class TokenFile:
    """A token file, mapped into memory: what is not looked at is not read."""

    path: Path
    header: Header
    tokens: np.ndarray
    """uint16 or uint32 ids."""
    units: np.ndarray
    """uint64, see :class:`fftnet.data.windows.Passages`."""


def open_tokens(path: Path, tokenizer: TextEncoder) -> TokenFile:
    """Map a token file.

    Raises:
        DataError: saying whether it is missing, truncated, damaged, or made with another tokenizer.
    """
    header = _read_header(path)
    if header.tokenizer != tokenizer.fingerprint:
        raise DataError(f"{path} was made with another tokenizer than {tokenizer.name!r}")
    tokens = np.memmap(path, header.dtype, "r", HEADER_BYTES, (header.num_tokens,))
    units = np.memmap(path, np.uint64, "r", header.units_at, (header.num_units,))
    return TokenFile(path, header, tokens, units)


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


def header_bytes(header: Header) -> bytes:
    """The 4096 bytes that a token file starts with."""
    text = json.dumps(asdict(header)).encode()
    start = MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    return (start + text).ljust(HEADER_BYTES, b"\0")
