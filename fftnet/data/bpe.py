"""Byte-pair encoding that is learned from a text."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fftnet.data.encodings import GPT2_PATTERN
from fftnet.data.errors import TokenizerError, import_extra

if TYPE_CHECKING:
    import tokenizers

MIN_VOCAB_SIZE = 257
"""All bytes and the end of text."""


def check_unicode(text: str) -> None:
    """Refuse what is not Unicode text.

    Raises:
        TokenizerError: if the text holds lone surrogates, saying where.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"character {error.start}"
        raise TokenizerError(f"{where} is a lone surrogate, which is not Unicode text: remove it") from None


def train_bpe(corpus: Iterable[str], vocab_size: int | None) -> "tokenizers.Tokenizer":
    """Learn merges from texts, with Hugging Face tokenizers.

    Args:
        corpus: read once; only counts of words are held.
        vocab_size: ids, ``<|endoftext|>`` included, for which the trained tokenizer leaves one free; a small
            corpus gives fewer.

    Raises:
        TokenizerError: if there is no text, the size is below 257, or the package is not installed.
    """
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
    pieces = stages.Split(tokenizers.Regex(GPT2_PATTERN), behavior="isolated")
    as_bytes = stages.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = stages.Sequence([pieces, as_bytes])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(stages.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts(), trainer)
    if not read:
        raise TokenizerError("bpe found nothing to learn from: hand it a corpus of text, or use bytes")
    return trained


def ranks_of(trained: "tokenizers.Tokenizer") -> dict[bytes, int]:
    """Bytes of each token to its rank: the 256 bytes, then the merges in the order they were learned."""
    byte_of = byte_stand_ins()
    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        ranks.setdefault(bytes(byte_of[character] for character in left + right), len(ranks))
    return ranks


def byte_stand_ins() -> dict[str, int]:
    """The byte behind each of GPT-2's printable stand-ins, which byte-level merges are written in."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
