"""Text to tokens and back: a wrapper around TikToken that saves with a checkpoint."""

import base64
import binascii
import codecs
import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import requests
import tiktoken

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's split of a text into pieces that no token crosses."""
CONFIG_FILE, RANK_FILE = "tokenizer.json", "tokenizer.tiktoken"


class TokenizerError(ValueError):
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
        return self.encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts, in parallel; see :meth:`encode`."""
        for text in texts:
            _check_unicode(text)
        return self.encoding.encode_ordinary_batch(texts)

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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides how a text is cut: equal for equal tokenizers only."""
        digest = hashlib.sha256(self.encoding._pat_str.encode())
        digest.update(json.dumps(sorted(self._specials.items())).encode())
        digest.update(_rank_lines(self._ranks))
        return digest.hexdigest()

    def save(self, directory: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer.tiktoken``, enough for :meth:`load` anywhere."""
        config = {
            "name": self.name,
            "pattern": self.encoding._pat_str,
            "special_tokens": self._specials,
            "fingerprint": self.fingerprint,
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RANK_FILE).write_bytes(_rank_lines(self._ranks))
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer that was saved, to the last rank, without a network.

        Raises:
            TokenizerError: naming the file that is missing or damaged.
        """
        path = directory / CONFIG_FILE
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            name, pattern, special = config["name"], config["pattern"], config["special_tokens"]
            stored = config["fingerprint"]
        except FileNotFoundError as error:
            raise TokenizerError(f"{path} is missing: is {directory} a checkpoint?") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TokenizerError(f"{path} is damaged, take another checkpoint: {error}") from error
        tokenizer = cls(_encoding(name, _read_ranks(directory / RANK_FILE), pattern, special))
        if tokenizer.fingerprint != stored:
            raise TokenizerError(f"{directory / RANK_FILE} is not the one that {path} was saved with")
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
        return Tokenizer(_encoding(name, {bytes([byte]): byte for byte in range(256)}, r"[\s\S]"))
    if name == "bpe":
        return Tokenizer(_encoding(name, _train_bpe(corpus or (), vocab_size or 0), GPT2_PATTERN))
    if name.endswith(".tiktoken"):
        return Tokenizer(_encoding(Path(name).stem, _read_ranks(Path(name)), GPT2_PATTERN))
    if name not in tiktoken.list_encoding_names():
        known = ", ".join(tiktoken.list_encoding_names())
        raise TokenizerError(
            f"unknown tokenizer {name!r}; choose bytes, bpe, a path to a .tiktoken file, or one of {known}"
        )
    try:
        return Tokenizer(tiktoken.get_encoding(name))
    except (requests.RequestException, OSError) as error:
        raise TokenizerError(
            f"the ranks of {name!r} could not be downloaded ({type(error).__name__}); set TIKTOKEN_CACHE_DIR "
            "to a folder that holds them, pass a .tiktoken rank file, or use bytes"
        ) from error


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"character {error.start}"
        raise TokenizerError(f"{where} is a lone surrogate, which is not Unicode text: remove it") from None


def _encoding(
    name: str, ranks: dict[bytes, int], pattern: str, special: dict[str, int] | None = None
) -> tiktoken.Encoding:
    special = special or {END_OF_TEXT: max(ranks.values()) + 1}
    try:
        return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    except (ValueError, AssertionError) as error:
        raise TokenizerError(f"the tokenizer {name!r} is damaged: {error}") from error


def _rank_lines(ranks: dict[bytes, int]) -> bytes:
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for piece, rank in ordered)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TokenizerError(f"{path} can't be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise TokenizerError(f"{path} line {number} is not '<base64> <rank>': not a rank file") from None
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(set(ranks.values())) != len(ranks):
        raise TokenizerError(f"{path} is not a rank file: it lacks single bytes or repeats a rank")
    return ranks


def _train_bpe(corpus: Iterable[str], vocab_size: int) -> dict[bytes, int]:
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Trained

    if vocab_size < 257:
        raise TokenizerError(f"bpe needs vocab_size of at least 257 (bytes and end), got {vocab_size}")
    trained = Trained(models.BPE())
    pieces = pre_tokenizers.Split(Regex(GPT2_PATTERN), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(alphabet), show_progress=False
    )
    trained.train_from_iterator(corpus, trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    if not merges and vocab_size > 257:
        raise TokenizerError("bpe found nothing to learn from: hand it a corpus of text, or use bytes")
    byte_of = {character: byte for byte, character in _byte_characters().items()}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in merges:
        ranks.setdefault(bytes(byte_of[character] for character in left + right), len(ranks))
    return ranks


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte, which byte-level BPE files are written in."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
