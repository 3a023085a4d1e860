"""Text to tokens and back: a wrapper around TikToken that is saved with a checkpoint."""

import codecs
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from fftnet.data.encodings import (
    END_OF_TEXT,
    BytesEncoding,
    Definition,
    Encoding,
    build_encoding,
    check_unicode,
    define,
    gpt2_encoding,
    ranks_of,
    read_ranks,
    train_bpe,
)
from fftnet.data.errors import TokenizerError, import_extra
from fftnet.data.tokenizer_json import LIBRARY_FILE, library_files, read_library_files

MAX_GAP = 500_000
"""Maximum number of consecutive spaces passed to TikToken; with a million, its regex engine panics."""


class StreamDecoder:
    """Decoder of tokens one by one, which never returns half a character."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0
        self.start = 0
        """Index of the character that holds the first byte of the last token."""

    def push(self, token: int) -> str:
        """Return the characters that this token completes, often one, sometimes none."""
        content = self._tokenizer.decode_bytes([token])
        unfinished, _ = self._decoder.getstate()
        # Bytes that are not UTF-8 may turn out to be several replacement characters.
        begun = (unfinished + content[:1]).decode("utf-8", errors="replace")
        self.start = self._length + (len(begun) - 1 if content else 0)
        text = self._decoder.decode(content)
        self._length += len(text)
        return text

    def finish(self) -> str:
        """Return a replacement character if the text ends within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """An encoding of TikToken or of bytes, which must have the special token ``<|endoftext|>``."""

    def __init__(self, encoding: Encoding) -> None:
        # Documents are joined by this token, and generation stops at it.
        if END_OF_TEXT not in encoding.special_tokens_set:
            raise TokenizerError(f"the encoding {encoding.name!r} has no {END_OF_TEXT}, to end a document")
        self.encoding = encoding

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size})"

    @property
    def name(self) -> str:
        """Name of the encoding."""
        return self.encoding.name

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.encoding.n_vocab

    @property
    def eot(self) -> int:
        """Id of ``<|endoftext|>``."""
        return self.encoding.eot_token

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides how a text is cut: equal for equal tokenizers only."""
        return self._fingerprint

    # Two steps, because pyright does not take a cached property for a property of a protocol.
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

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; the name of a special token inside it is ordinary text."""
        check_unicode(text)
        # A user's text must not be able to end a document.
        return [token for part in _parts(text) for token in self.encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> np.ndarray:
        """Return the same as uint32, three times as fast."""
        check_unicode(text)
        pieces = [self.encoding.encode_to_numpy(part, disallowed_special=()) for part in _parts(text)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of many texts, computed in parallel; see ``encode``."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.encode, texts))

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of ids, none for special tokens; an id not in use is a TokenizerError."""
        # TikToken would panic at some unknown ids; a dictionary names the id.
        table = self._bytes
        try:
            return b"".join(table[token] for token in tokens)
        except KeyError as error:
            known = f"{self.name!r} (0 to {self.vocab_size - 1})"
            raise TokenizerError(f"token {error} is not one of {known}") from None

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become replacement characters."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def token_bytes(self) -> list[int]:
        """Return the number of bytes of each id, 0 for special and unused ids; for bits per byte."""
        return [len(self._bytes.get(token, b"")) for token in range(self.vocab_size)]

    def stream(self) -> StreamDecoder:
        """Return a decoder for tokens that arrive one by one."""
        return StreamDecoder(self)

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json`` and the configurations of the tokenizer and of generation."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._library_files.items():
            (directory / name).write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Load a tokenizer that was saved, by this class or by Transformers, without a network."""
        directory = Path(directory)
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
    """Make a tokenizer, or load one.

    Args:
        name: ``bytes`` (256 bytes and ``<|endoftext|>``; nothing to download or train), ``bpe`` (trained on
            ``corpus``), a path to a ``.tiktoken`` rank file (with GPT-2's pattern), a path to a checkpoint,
            or the name of a TikToken encoding such as ``gpt2``, ``cl100k_base``, ``o200k_base``, which is
            downloaded once.
        corpus: texts that ``bpe`` learns from.
        vocab_size: number of ids that ``bpe`` learns, the 256 bytes and ``<|endoftext|>`` included; a small
            corpus gives fewer.

    Raises:
        TokenizerError: if the name is unknown, the file damaged, the download impossible, the corpus empty,
            or a package not installed.
    """
    if name == "bytes":
        return Tokenizer(BytesEncoding())
    if name == "bpe":
        return Tokenizer(gpt2_encoding(name, ranks_of(train_bpe(corpus or (), vocab_size))))
    if name.endswith(".tiktoken"):
        return Tokenizer(gpt2_encoding(Path(name).stem, read_ranks(Path(name))))
    if Path(name).is_dir():
        return Tokenizer.load(name)
    tiktoken = import_extra("tiktoken", f"the tokenizer {name!r}", "text")
    if name not in tiktoken.list_encoding_names():
        known = ", ".join(tiktoken.list_encoding_names())
        raise TokenizerError(
            f"unknown tokenizer {name!r}; choose bytes, bpe, a path to a .tiktoken file or a checkpoint, or "
            f"one of {known}"
        )
    try:
        return Tokenizer(tiktoken.get_encoding(name))
    # A failed request is an OSError; a download with unexpected content is a ValueError.
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"the ranks of {name!r} could not be downloaded ({type(error).__name__}); set TIKTOKEN_CACHE_DIR "
            "to a folder that holds them, pass a .tiktoken rank file, or use bytes"
        ) from error


def _parts(text: str) -> Iterator[str]:
    cuts = [0, len(text)]
    # Shorter texts are not searched: most calls tokenize a prompt.
    if len(text) > MAX_GAP:
        for gap in re.finditer(r"\s{1000,}", text):
            cuts += range(gap.start() + MAX_GAP, gap.end(), MAX_GAP)
    return (text[start:end] for start, end in pairwise(sorted(cuts)))
