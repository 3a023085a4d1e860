"""Text to tokens and back: a wrapper around TikToken that saves with a checkpoint."""

import base64
import binascii
import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from fftnet.errors import UserError

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's split of a text into pieces that no token crosses."""
BYTES_PATTERN = r"[\s\S]{1,64}"
"""Where bytes are cut into pieces changes no token: of the lengths tried, this one encodes fastest."""
MAX_GAP = 500_000
"""Spaces in a row that TikToken gets at once; on a million its regex engine panics."""
CONFIG_FILE, RANK_FILE = "tokenizer.json", "tokenizer.tiktoken"


class TokenizerError(UserError, ValueError):
    """A tokenizer can't be made, loaded or used; the message says why and what to do."""


class StreamDecoder:
    """Decodes token by token and never hands out half a character."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that this token completes, often one, sometimes none."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """A replacement character if the text ends within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """A :class:`tiktoken.Encoding` with an end-of-text token.

    Args:
        encoding: must hold ``<|endoftext|>`` as a special token.

    Raises:
        TokenizerError: if it does not.
    """

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        if END_OF_TEXT not in encoding.special_tokens_set:
            raise TokenizerError(f"the encoding {encoding.name!r} has no {END_OF_TEXT}, to end a document")
        self.encoding = encoding

    @property
    def name(self) -> str:
        """What it is called."""
        return self.encoding.name

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.encoding.n_vocab

    @property
    def eot(self) -> int:
        """Id of ``<|endoftext|>``."""
        return self.encoding.eot_token

    def encode(self, text: str) -> list[int]:
        """Ids of a text; the name of a special token inside it is ordinary text.

        Raises:
            TokenizerError: if the text holds lone surrogates, which are no Unicode text.
        """
        _check_unicode(text)
        return [token for part in _parts(text) for token in self.encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> np.ndarray:
        """The same as uint32, three times as fast."""
        _check_unicode(text)
        pieces = [self.encoding.encode_to_numpy(part, disallowed_special=()) for part in _parts(text)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of many texts, in parallel; see :meth:`encode`."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.encode, texts))

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes behind ids; special tokens stand for none.

        Raises:
            TokenizerError: if an id stands for nothing.
        """
        table = self._bytes
        try:
            return b"".join(table[token] for token in tokens)
        except KeyError as error:
            known = f"{self.name!r} (0 to {self.vocab_size - 1})"
            raise TokenizerError(f"token {error} is not one of {known}") from None

    def decode(self, tokens: Iterable[int]) -> str:
        """The text behind ids; bytes that are not UTF-8 become replacement characters."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def token_bytes(self) -> list[int]:
        """Bytes that each id stands for, 0 for special and unused ids: the measure of bits per byte."""
        return [len(self._bytes.get(token, b"")) for token in range(self.vocab_size)]

    def stream(self) -> StreamDecoder:
        """A decoder for tokens that arrive one by one."""
        return StreamDecoder(self)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        special = dict.fromkeys(self._specials.values(), b"")
        return {rank: piece for piece, rank in self._ranks.items()} | special

    @property
    def _ranks(self) -> dict[bytes, int]:
        return self.encoding._mergeable_ranks

    @property
    def _specials(self) -> dict[str, int]:
        return self.encoding._special_tokens

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides how a text is cut: equal for equal tokenizers only."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.encoding._pat_str.encode())
        digest.update(json.dumps(sorted(self._specials.items())).encode())
        digest.update(_rank_lines(self._ranks))
        return digest.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer.tiktoken``, enough for :meth:`load` anywhere."""
        config = {
            "name": self.name,
            "pattern": self.encoding._pat_str,
            "special_tokens": self._specials,
            "num_ranks": len(self._ranks),
            "fingerprint": self.fingerprint,
        }
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RANK_FILE).write_bytes(_rank_lines(self._ranks))
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """The tokenizer that was saved, to the last rank, without a network.

        Raises:
            TokenizerError: naming the file that is missing or damaged.
        """
        directory = Path(directory)
        path = directory / CONFIG_FILE
        if not path.is_file():
            raise TokenizerError(f"{path} is missing: is {directory} a checkpoint?")
        ranks = _read_ranks(directory / RANK_FILE)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            name, pattern, special = config["name"], config["pattern"], config["special_tokens"]
            encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
            tokenizer, stored = cls(encoding), config["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise TokenizerError(f"{path} is damaged, take another checkpoint: {error}") from error
        if tokenizer.fingerprint != stored:
            raise TokenizerError(
                f"{directory / RANK_FILE} is not the one that {path} was saved with: take another checkpoint"
            )
        return tokenizer


def load_tokenizer(
    name: str, *, corpus: Iterable[str] | None = None, vocab_size: int | None = None
) -> Tokenizer:
    """Make a tokenizer.

    Args:
        name: ``bytes`` (256 bytes and ``<|endoftext|>``; nothing to download or train), ``bpe`` (trained on
            ``corpus``), a path to a ``.tiktoken`` rank file (cut as GPT-2 does), or the name of a TikToken
            encoding such as ``gpt2``, ``cl100k_base``, ``o200k_base``, which is downloaded once.
        corpus: texts that ``bpe`` learns from.
        vocab_size: ids that ``bpe`` learns, the 256 bytes and ``<|endoftext|>`` included; a small corpus
            gives fewer.

    Raises:
        TokenizerError: if the name is unknown, the file damaged, the download impossible, the corpus empty.
    """
    if name == "bytes":
        return _with_end(name, {bytes([byte]): byte for byte in range(256)}, BYTES_PATTERN)
    if name == "bpe":
        return _with_end(name, _ranks_of(_train_bpe(corpus, vocab_size)), GPT2_PATTERN)
    if name.endswith(".tiktoken"):
        return _with_end(Path(name).stem, _read_ranks(Path(name)), GPT2_PATTERN)
    if name not in tiktoken.list_encoding_names():
        known = ", ".join(tiktoken.list_encoding_names())
        raise TokenizerError(
            f"unknown tokenizer {name!r}; choose bytes, bpe, a path to a .tiktoken file, or one of {known}"
        )
    try:
        encoding = tiktoken.get_encoding(name)
    # A failed request is an OSError; a download that is not what was expected is a ValueError.
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"the ranks of {name!r} could not be downloaded ({type(error).__name__}); set TIKTOKEN_CACHE_DIR "
            "to a folder that holds them, pass a .tiktoken rank file, or use bytes"
        ) from error
    return Tokenizer(encoding)


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"character {error.start}"
        raise TokenizerError(f"{where} is a lone surrogate, which is not Unicode text: remove it") from None


def _parts(text: str) -> Iterator[str]:
    cuts = [0, len(text)]
    if len(text) > MAX_GAP:
        for gap in re.finditer(r"\s{1000,}", text):
            cuts += range(gap.start() + MAX_GAP, gap.end(), MAX_GAP)
    return (text[start:end] for start, end in pairwise(sorted(cuts)))


def _with_end(name: str, ranks: dict[bytes, int], pattern: str) -> Tokenizer:
    special = {END_OF_TEXT: max(ranks.values()) + 1}
    return Tokenizer(tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special))


def _rank_lines(ranks: dict[bytes, int]) -> bytes:
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for piece, rank in ordered)


def _read_ranks(path: Path) -> dict[bytes, int]:
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
            piece, rank = base64.b64decode(encoded, validate=True), int(digits)
        except (ValueError, binascii.Error):
            raise TokenizerError(f"{path} line {number} is not '<base64> <rank>': not a rank file") from None
        # Far above every published vocabulary: a wild rank would be a vocabulary that fills the memory.
        if piece in ranks or rank in taken or not 0 <= rank < 2**24:
            raise TokenizerError(f"{path} line {number} repeats a token or its rank is out of range: {rank}")
        ranks[piece] = rank
        taken.add(rank)
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise TokenizerError(f"{path} is not a byte-level rank file: it lacks single bytes")
    return ranks


def _train_bpe(corpus: Iterable[str] | None, vocab_size: int | None) -> tokenizers.Tokenizer:
    if vocab_size is None or vocab_size < 257:
        raise TokenizerError(f"bpe needs vocab_size of at least 257 (bytes and end), got {vocab_size}")
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in corpus or ():
            _check_unicode(text)
            read += len(text)
            yield text

    trained = tokenizers.Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(tokenizers.Regex(GPT2_PATTERN), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(alphabet), show_progress=False
    )
    trained.train_from_iterator(texts(), trainer)
    if not read:
        raise TokenizerError("bpe found nothing to learn from: hand it a corpus of text, or use bytes")
    return trained


def _ranks_of(trained: tokenizers.Tokenizer) -> dict[bytes, int]:
    byte_of = _byte_of()
    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        ranks.setdefault(bytes(byte_of[character] for character in left + right), len(ranks))
    return ranks


def _byte_of() -> dict[str, int]:
    """The byte behind each of GPT-2's printable stand-ins, which byte-level merges are written in."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
