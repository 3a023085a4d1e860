"""Text to tokens and back: a wrapper around TikToken that saves with a checkpoint."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fftnet.data.bpe import check_unicode, ranks_of, train_bpe
from fftnet.data.encodings import (
    END_OF_TEXT,
    BytesEncoding,
    Definition,
    Encoding,
    build_encoding,
    define,
    end_documents,
    load_tiktoken,
    rank_lines,
    read_ranks,
)
from fftnet.data.errors import MissingPackageError, TokenizerError
from fftnet.data.tokenizer_json import LIBRARY_FILE, library_files, read_library_files
from fftnet.serialization import CheckpointError, read_json

if TYPE_CHECKING:
    import tiktoken

__all__ = ["RANK_FILE", "TOKENIZER_FILE", "StreamDecoder", "Tokenizer", "TokenizerError", "load_tokenizer"]

MAX_GAP = 500_000
"""Spaces in a row that TikToken gets at once; on a million its regex engine panics."""
TOKENIZER_FILE = "fftnet_tokenizer.json"
RANK_FILE = "tokenizer.tiktoken"


class StreamDecoder:
    """Decodes token by token and never hands out half a character."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0
        self.start = 0
        """Index of the character that holds the first byte of the last token."""

    def push(self, token: int) -> str:
        """The characters that this token completes, often one, sometimes none."""
        content = self._tokenizer.decode_bytes([token])
        unfinished, _ = self._decoder.getstate()
        # Bytes that are no UTF-8 may turn out to be several replacement characters.
        begun = (unfinished + content[:1]).decode("utf-8", errors="replace")
        self.start = self._length + (len(begun) - 1 if content else 0)
        text = self._decoder.decode(content)
        self._length += len(text)
        return text

    def finish(self) -> str:
        """A replacement character if the text ends within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """An encoding with an end-of-text token.

    Args:
        encoding: of TikToken, or of bytes; must hold ``<|endoftext|>`` as a special token.

    Raises:
        TokenizerError: if it does not.
    """

    def __init__(self, encoding: "Encoding | tiktoken.Encoding") -> None:
        if END_OF_TEXT not in encoding.special_tokens_set:
            raise TokenizerError(f"the encoding {encoding.name!r} has no {END_OF_TEXT}, to end a document")
        self.encoding = encoding

    @property
    def name(self) -> str:
        """The name of the encoding."""
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
        check_unicode(text)
        return [token for part in _parts(text) for token in self.encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> np.ndarray:
        """The same as uint32, three times as fast."""
        check_unicode(text)
        pieces = [self.encoding.encode_to_numpy(part, disallowed_special=()) for part in _parts(text)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of many texts, in parallel; see ``encode``."""
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides how a text is cut: equal for equal tokenizers only."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self._definition.fingerprint

    @cached_property
    def _definition(self) -> Definition:
        return define(self.encoding)

    @cached_property
    def _library_files(self) -> dict[str, str]:
        return library_files(self.name, self._definition)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        special = dict.fromkeys(self._definition.special_tokens.values(), b"")
        return {rank: piece for piece, rank in self._definition.ranks.items()} | special

    def save(self, directory: str | Path) -> None:
        """Write ``fftnet_tokenizer.json`` and ``tokenizer.tiktoken``, enough for ``load`` anywhere.

        Beside them lie ``tokenizer.json``, ``tokenizer_config.json`` and ``generation_config.json``, with
        which Hugging Face Transformers reads the same tokenizer.
        """
        config = {
            "name": self.name,
            "pattern": self._definition.pattern,
            "special_tokens": self._definition.special_tokens,
            "num_ranks": len(self._definition.ranks),
            "fingerprint": self.fingerprint,
        }
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RANK_FILE).write_bytes(rank_lines(self._definition.ranks))
        (directory / TOKENIZER_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, content in self._library_files.items():
            (directory / name).write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """The tokenizer that was saved, to the last rank, without a network.

        Where Transformers alone has written the folder, its ``tokenizer.json`` is read.

        Raises:
            TokenizerError: naming the file that is missing or damaged, or the package that is not installed.
        """
        directory = Path(directory)
        path = directory / TOKENIZER_FILE
        if not path.is_file() and (directory / LIBRARY_FILE).is_file():
            return cls._load_library_files(directory)
        if not path.is_file():
            raise TokenizerError(f"{path} is missing: is {directory} a checkpoint?")
        ranks = read_ranks(directory / RANK_FILE)
        try:
            config = read_json(path)
            definition = Definition(config["pattern"], ranks, config["special_tokens"])
            tokenizer = cls(build_encoding(config["name"], definition))
            stored = config["fingerprint"]
        except MissingPackageError:
            raise
        except CheckpointError as error:
            raise TokenizerError(str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise TokenizerError(f"{path} is damaged, take another checkpoint: {error}") from error
        if tokenizer.fingerprint != stored:
            raise TokenizerError(
                f"{directory / RANK_FILE} is not the one that {path} was saved with: take another checkpoint"
            )
        return tokenizer

    @classmethod
    def _load_library_files(cls, directory: Path) -> "Tokenizer":
        name, definition = read_library_files(directory)
        try:
            return cls(build_encoding(name, definition))
        except TokenizerError:
            raise
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            path = directory / LIBRARY_FILE
            raise TokenizerError(f"{path} is damaged, take another checkpoint: {error}") from error


def load_tokenizer(
    name: str, *, corpus: Iterable[str] | None = None, vocab_size: int | None = None
) -> Tokenizer:
    """Make a tokenizer.

    Args:
        name: ``bytes`` (256 bytes and ``<|endoftext|>``; nothing to download or train), ``bpe`` (trained on
            ``corpus``), a path to a ``.tiktoken`` rank file (cut as GPT-2 does) or to a checkpoint, whose it
            is then, or the name of a TikToken encoding such as ``gpt2``, ``cl100k_base``, ``o200k_base``,
            which is downloaded once.
        corpus: texts that ``bpe`` learns from.
        vocab_size: ids that ``bpe`` learns, the 256 bytes and ``<|endoftext|>`` included; a small corpus
            gives fewer.

    Raises:
        TokenizerError: if the name is unknown, the file damaged, the download impossible, the corpus empty,
            or a package not installed.
    """
    if name == "bytes":
        return Tokenizer(BytesEncoding())
    if name == "bpe":
        return Tokenizer(end_documents(name, ranks_of(train_bpe(corpus or (), vocab_size))))
    if name.endswith(".tiktoken"):
        return Tokenizer(end_documents(Path(name).stem, read_ranks(Path(name))))
    if Path(name).is_dir():
        return Tokenizer.load(name)
    return Tokenizer(_published_encoding(name))


def _published_encoding(name: str) -> Encoding:
    tiktoken = load_tiktoken(name)
    if name not in tiktoken.list_encoding_names():
        known = ", ".join(tiktoken.list_encoding_names())
        raise TokenizerError(
            f"unknown tokenizer {name!r}; choose bytes, bpe, a path to a .tiktoken file or a checkpoint, or "
            f"one of {known}"
        )
    try:
        return tiktoken.get_encoding(name)
    # A failed request is an OSError; a download that is not what was expected is a ValueError.
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"the ranks of {name!r} could not be downloaded ({type(error).__name__}); set TIKTOKEN_CACHE_DIR "
            "to a folder that holds them, pass a .tiktoken rank file, or use bytes"
        ) from error


def _parts(text: str) -> Iterator[str]:
    cuts = [0, len(text)]
    if len(text) > MAX_GAP:
        for gap in re.finditer(r"\s{1000,}", text):
            cuts += range(gap.start() + MAX_GAP, gap.end(), MAX_GAP)
    return (text[start:end] for start, end in pairwise(sorted(cuts)))
