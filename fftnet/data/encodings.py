"""Encodings of tokenizers: their definition, rank files, and byte-pair encoding learned from a text."""

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fftnet.data.errors import TokenizerError, import_extra

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's split of a text into pieces; no token spans two pieces."""
MIN_VOCAB_SIZE = 257
"""Number of all bytes and the end of text."""
MAX_RANK = 2**24
"""Upper limit of ids, above every published vocabulary; TikToken allocates memory up to the largest id."""

Encoding: TypeAlias = "BytesEncoding | tiktoken.Encoding"


class Definition(NamedTuple):
    """Everything that decides how a text is cut into tokens."""

    pattern: str
    """Regular expression of the pieces that no token crosses."""
    ranks: Mapping[bytes, int]
    """Bytes of each token to its id; a lower id is merged earlier."""
    special_tokens: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256(self.pattern.encode())
        # Runs compare this value when they resume: any change here would refuse the checkpoints of today.
        digest.update(json.dumps(sorted(self.special_tokens.items())).encode())
        for piece, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            digest.update(base64.b64encode(piece) + b" %d\n" % rank)
        return digest.hexdigest()


BYTES = Definition(
    pattern=r"[\s\S]{1,64}",
    ranks={bytes([byte]): byte for byte in range(256)},
    special_tokens={END_OF_TEXT: 256},
)
"""Single bytes; the pattern changes no token."""


class BytesEncoding:
    """The encoding of ``BYTES``, with the part of ``tiktoken.Encoding`` that is in use, without TikToken."""

    name = "bytes"
    special_tokens_set = frozenset(BYTES.special_tokens)
    n_vocab = 257
    eot_token = 256

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text."""
        return list(text.encode())

    def encode_to_numpy(self, text: str, *, disallowed_special: Collection[str]) -> np.ndarray:
        """Return the UTF-8 bytes of a text as uint32."""
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32)


def build_encoding(name: str, definition: Definition) -> Encoding:
    """Build an encoding; ValueError, TypeError, AttributeError or OverflowError if it is not valid."""
    # TikToken would panic at such values, or fill the memory.
    if not isinstance(name, str) or not isinstance(definition.pattern, str):
        raise ValueError(f"name and pattern must be strings, got {name!r} and {definition.pattern!r}")
    # Lone surrogates raise here, as a ValueError.
    "".join((name, definition.pattern, *definition.special_tokens)).encode()
    _check_ranks(definition.ranks, definition.special_tokens.values())
    if definition == BYTES:
        return BytesEncoding()
    pattern, ranks, special_tokens = definition
    return import_extra("tiktoken", f"the tokenizer {name!r}", "text").Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens
    )


def define(encoding: Encoding) -> Definition:
    """Return the definition of an encoding."""
    if isinstance(encoding, BytesEncoding):
        return BYTES
    # TikToken has no public access to the parts of an encoding; only this function uses the private one.
    parts: Any = encoding
    return Definition(parts._pat_str, parts._mergeable_ranks, parts._special_tokens)


def gpt2_encoding(name: str, ranks: dict[bytes, int]) -> Encoding:
    """Build an encoding with GPT-2's pattern and ``<|endoftext|>`` behind the last rank."""
    return build_encoding(name, Definition(GPT2_PATTERN, ranks, {END_OF_TEXT: max(ranks.values()) + 1}))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file in TikToken's format: a line has the base64 of a token and its rank."""
    # A device can be read without end; the largest published file has 4 million bytes.
    most = 2**26
    if path.exists() and (not path.is_file() or path.stat().st_size > most):
        raise TokenizerError(
            f"{path} is not a rank file: it must be a regular file of at most {most:,} bytes"
        )
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(piece, validate=True): int(rank) for piece, rank in lines}
        if len(ranks) < len(lines):
            raise ValueError("a token comes twice")
        _check_ranks(ranks)
    except OSError as error:
        raise TokenizerError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise TokenizerError(
            f"{path} is not a rank file, with a token in base64 and its rank in each line: {error}"
        ) from error
    return ranks


def _check_ranks(ranks: Mapping[bytes, int], others: Iterable[int] = ()) -> None:
    """Raise a ValueError unless each byte is a token and all ids are different, in range and integers."""
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("it lacks single bytes")
    numbers = [*ranks.values(), *others]
    # type instead of isinstance, because True is an int.
    wrong = [number for number in numbers if type(number) is not int or not 0 <= number < MAX_RANK]
    if wrong:
        raise ValueError(f"a token must have a number from 0 to {MAX_RANK - 1}, got {wrong[0]!r}")
    if len(set(numbers)) < len(numbers):
        raise ValueError("two tokens have the same number")


def check_unicode(text: str) -> None:
    """Refuse a string that is not Unicode text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = f"character {error.start}"
        raise TokenizerError(f"{place} is a lone surrogate, which is not Unicode text: remove it") from None


def train_bpe(corpus: Iterable[str], vocab_size: int | None) -> "tokenizers.Tokenizer":
    """Learn merges from texts; one id is reserved for ``<|endoftext|>``, a small corpus gives fewer."""
    if vocab_size is None or vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"bpe needs vocab_size of at least {MIN_VOCAB_SIZE} (bytes and end), got {vocab_size}"
        )
    tokenizers = import_extra("tokenizers", "the tokenizer 'bpe'", "text")
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in corpus:
            check_unicode(text)
            read += len(text)
            yield text

    stages = tokenizers.pre_tokenizers
    # The same pieces as TikToken will cut, so that the learned merges apply there.
    pieces = stages.Split(tokenizers.Regex(GPT2_PATTERN), behavior="isolated")
    as_bytes = stages.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = stages.Sequence([pieces, as_bytes])
    trainer = tokenizers.trainers.BpeTrainer(
        # The end of text is added later.
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(stages.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts(), trainer)
    if not read:
        raise TokenizerError("bpe found nothing to learn from: hand it a corpus of text, or use bytes")
    return trained


def ranks_of(trained: "tokenizers.Tokenizer") -> dict[bytes, int]:
    """Return the bytes of each token and its rank: the 256 bytes, then the merges as they were learned."""
    byte_of = byte_stand_ins()
    ranks = {bytes([byte]): byte for byte in range(256)}
    # Two pairs of tokens may join to the same bytes: the first one counts.
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        ranks.setdefault(bytes(byte_of[character] for character in left + right), len(ranks))
    return ranks


def byte_stand_ins() -> dict[str, int]:
    """Return GPT-2's printable characters and the byte that each stands for in byte-level merges."""
    # Bytes that are printable in Latin-1 stand for themselves, the others for characters from 256 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
