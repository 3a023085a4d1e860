"""Encodings under a tokenizer: their definition, and the rank files that hold it."""

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from fftnet.data.errors import TokenizerError, import_extra

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's split of a text into pieces that no token crosses."""
MAX_RANK = 2**24
"""Far above every published vocabulary: a wild rank would be a vocabulary that fills the memory."""

MAX_BYTES = 2**26
"""Largest rank file, in bytes; the largest published one has 4 million."""


class Encoding(Protocol):
    """The part of an encoding that a tokenizer needs; ``tiktoken.Encoding`` has it."""

    @property
    def name(self) -> str:
        """Its name, in error texts and file names."""
        ...

    @property
    def special_tokens_set(self) -> Collection[str]:
        """Names of the tokens that stand for no text."""
        ...

    @property
    def n_vocab(self) -> int:
        """Number of ids."""
        ...

    @property
    def eot_token(self) -> int:
        """Id of ``<|endoftext|>``."""
        ...

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, in which names of special tokens are ordinary text."""
        ...

    def encode_to_numpy(self, text: str, *, disallowed_special: Collection[str]) -> np.ndarray:
        """The same as uint32."""
        ...


class Definition(NamedTuple):
    """Everything that decides how a text is cut."""

    pattern: str
    """Regular expression of the pieces that no token crosses."""
    ranks: Mapping[bytes, int]
    """Bytes of each token to its id; a lower id is merged earlier."""
    special_tokens: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256(self.pattern.encode())
        digest.update(json.dumps(sorted(self.special_tokens.items())).encode())
        digest.update(rank_lines(self.ranks))
        return digest.hexdigest()


BYTES = Definition(
    pattern=r"[\s\S]{1,64}",
    ranks={bytes([byte]): byte for byte in range(256)},
    special_tokens={END_OF_TEXT: 256},
)
"""Bytes as they are; where they are cut into pieces changes no token."""


class BytesEncoding:
    """The encoding of ``BYTES``, which needs no package."""

    name = "bytes"
    special_tokens_set = frozenset(BYTES.special_tokens)
    n_vocab = 257
    eot_token = 256

    def encode_ordinary(self, text: str) -> list[int]:
        """The UTF-8 bytes of a text."""
        return list(text.encode())

    def encode_to_numpy(self, text: str, *, disallowed_special: Collection[str]) -> np.ndarray:
        """The same as uint32."""
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32)


def build_encoding(name: str, definition: Definition) -> Encoding:
    """The encoding that a definition describes.

    Raises:
        MissingPackageError: if it needs TikToken, which is not installed.
        ValueError, TypeError, AttributeError, OverflowError: if TikToken can't make one of it.
    """
    _check(name, definition)
    if definition == BYTES:
        return BytesEncoding()
    return load_tiktoken(name).Encoding(
        name,
        pat_str=definition.pattern,
        mergeable_ranks=definition.ranks,
        special_tokens=definition.special_tokens,
    )


def _check(name: str, definition: Definition) -> None:
    """Refuse what TikToken would panic at, or fill the memory with."""
    if not isinstance(name, str) or not isinstance(definition.pattern, str):
        raise ValueError(f"name and pattern must be strings, got {name!r} and {definition.pattern!r}")
    # Lone surrogates raise here, as a ValueError.
    "".join((name, definition.pattern, *definition.special_tokens)).encode()
    if any(bytes([byte]) not in definition.ranks for byte in range(256)):
        raise ValueError("it lacks single bytes")
    numbers = [*definition.ranks.values(), *definition.special_tokens.values()]
    # type, since True is an int.
    wrong = [number for number in numbers if type(number) is not int or not 0 <= number < MAX_RANK]
    if wrong:
        raise ValueError(f"a token must have a number from 0 to {MAX_RANK - 1}, got {wrong[0]!r}")
    if len(set(numbers)) < len(numbers):
        raise ValueError("two tokens have the same number")


def define(encoding: "Encoding | tiktoken.Encoding") -> Definition:
    """The definition of an encoding."""
    if isinstance(encoding, BytesEncoding):
        return BYTES
    # TikToken has no public way to the parts of an encoding; nothing else here takes the private one.
    parts: Any = encoding
    return Definition(parts._pat_str, parts._mergeable_ranks, parts._special_tokens)


def end_documents(name: str, ranks: dict[bytes, int]) -> Encoding:
    """An encoding that cuts a text as GPT-2 does, with ``<|endoftext|>`` behind the last rank."""
    return build_encoding(name, Definition(GPT2_PATTERN, ranks, {END_OF_TEXT: max(ranks.values()) + 1}))


def load_tiktoken(name: str) -> Any:
    """The module.

    Raises:
        MissingPackageError: saying that the tokenizer of this name needs it, if it is not installed.
    """
    return import_extra("tiktoken", f"the tokenizer {name!r}", "text")


def rank_lines(ranks: Mapping[bytes, int]) -> bytes:
    """The content of a rank file, in TikToken's format."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for piece, rank in ordered)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file.

    Raises:
        TokenizerError: naming the file and the line that is damaged.
    """
    # A device can be read without end.
    if path.exists() and (not path.is_file() or path.stat().st_size > MAX_BYTES):
        raise TokenizerError(
            f"{path} is not a rank file: it must be a regular file of at most {MAX_BYTES:,} bytes"
        )
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TokenizerError(f"{path} can't be read: {error.strerror}") from error
    ranks: dict[bytes, int] = {}
    taken: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            encoded, digits = line.split()
            piece = base64.b64decode(encoded, validate=True)
            rank = int(digits)
        except (ValueError, binascii.Error):
            raise TokenizerError(f"{path} line {number} is not '<base64> <rank>': not a rank file") from None
        if piece in ranks or rank in taken or not 0 <= rank < MAX_RANK:
            raise TokenizerError(f"{path} line {number} repeats a token or its rank is out of range: {rank}")
        ranks[piece] = rank
        taken.add(rank)
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise TokenizerError(f"{path} is not a byte-level rank file: it lacks single bytes")
    return ranks
