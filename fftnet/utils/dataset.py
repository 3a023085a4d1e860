"""Data as seekable streams: batch number i of epoch e is a pure function of the seed, e and i.

A row is T + 1 token ids, of which the first T are fed and the last T are targets.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fftnet.data import grammar
from fftnet.data.cache import TokenCache, in_units, total_bytes
from fftnet.data.documents import (
    SYNTHETIC,
    TOKENS,
    DataError,
    Document,
    Origin,
    find,
    load_texts,
    sections,
)
from fftnet.data.token_file import TextEncoder, TokenFile, open_tokens
from fftnet.data.windows import Passages, deal, make_batches, text_batch
from fftnet.protocols import Batch, Batches

LEARNED_CHARACTERS = 2**26
"""Of a text too large for memory, about so many characters teach the bpe tokenizer."""
TRAIN, VALID, TEST = 0, 1, 2


@dataclass(frozen=True)
class Splits:
    """Three streams that share nothing."""

    train: Batches
    valid: Batches
    test: Batches
    entropy_floor: float | None
    """Entropy of the validation split in nats per token, None where it can't be known."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read.

    Raises:
        ValueError: if a field is out of range.
    """

    data: list[str] = field(default_factory=lambda: [SYNTHETIC])
    """synthetic, python-docs, python-source, hf:NAME of a Hugging Face dataset, or files, folders and globs
    (text, .jsonl, .parquet), as many as you like; or a .tokens file that an earlier run left."""
    text_field: str = "text"
    """Column that holds the text in .jsonl, .parquet and Hugging Face datasets."""
    tokenizer: str = "bytes"
    """bytes, bpe (trained on the data), a path to a .tiktoken file, or gpt2, cl100k_base, o200k_base."""
    vocab_size: int = 2048
    """Tokens that bpe learns, the 256 bytes and the end of text included."""
    num_samples: int = 1000
    """Synthetic samples in an epoch; every epoch draws new ones, so that none can be learned by heart."""
    pattern_complexity: float = 0.5
    """Difficulty of the synthetic grammar, in [0, 1]."""
    batch_size: int = 16
    """Rows in a batch."""
    valid_fraction: float = 0.05
    """Part of a real text that validates."""
    test_fraction: float = 0.05
    """Part of a real text that is kept for the end."""
    data_seed: int = 0
    """Of the split, the windows and the synthetic samples."""
    reset_at_documents: bool = False
    """Start every document in a row of its own, with a fresh state; else rows run on over the ends."""
    in_memory_mb: float = 32.0
    """More text than so many megabytes is tokenized once, into cache_dir, and read from there."""
    cache_dir: str | None = None
    """Folder of tokenized text (default: fftnet in the user's cache folder, see XDG_CACHE_HOME)."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data must name at least one source, such as synthetic or a text file")
        if self.in_memory_mb < 0:
            raise ValueError(f"in_memory_mb must be 0 or more, got {self.in_memory_mb}")
        for source in self.data:
            if len(self.data) > 1 and (source == SYNTHETIC or source.endswith(TOKENS)):
                what = "synthetic data" if source == SYNTHETIC else f"the token file {source}"
                raise ValueError(f"{what} can't be mixed with other sources: name one or the other")
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.pattern_complexity <= 1.0:
            raise ValueError(f"pattern_complexity must lie in [0, 1], got {self.pattern_complexity}")
        held_out = self.valid_fraction + self.test_fraction
        if min(self.valid_fraction, self.test_fraction) <= 0 or held_out >= 0.9:
            raise ValueError("valid_fraction and test_fraction must be above 0 and below 0.9 together")


class SyntheticBatches:
    """Samples of the grammar, one a row: end of text, the text, end of text.

    Args:
        config: seed, complexity, sizes.
        tokenizer: encodes the samples.
        split: name that sets this stream apart from the others of the same seed.
        num_samples: rows in an epoch.
        max_seq_length: T, which every sample must fit.
        fresh: draw other samples in every epoch.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: TextEncoder,
        split: str,
        num_samples: int,
        max_seq_length: int,
        fresh: bool,
    ) -> None:
        self._config, self._tokenizer, self._split = config, tokenizer, split
        self._num_samples, self._max_seq_length, self._fresh = num_samples, max_seq_length, fresh
        self.num_batches = -(-num_samples // config.batch_size)

    def samples(self, epoch: int, index: int) -> list[grammar.Sample]:
        """The samples behind a batch."""
        first = index * self._config.batch_size
        last = min(first + self._config.batch_size, self._num_samples)
        key = f"{self._config.data_seed}/{self._split}/{epoch if self._fresh else 0}"
        complexity = self._config.pattern_complexity
        return [grammar.sample(random.Random(f"{key}/{n}"), complexity) for n in range(first, last)]

    def batch(self, epoch: int, index: int) -> Batch:
        """Samples of L tokens, as many as the longest of them needs, padded.

        Raises:
            DataError: if a sample does not fit max_seq_length.
        """
        eot = self._tokenizer.eot
        texts = [sample.text for sample in self.samples(epoch, index)]
        rows = [[eot, *tokens, eot] for tokens in self._tokenizer.encode_batch(texts)]
        longest = max(map(len, rows))
        if longest > self._max_seq_length + 1:
            enough = grammar.max_length(self._config.pattern_complexity) + 1
            raise DataError(
                f"a synthetic sample has {longest} tokens: set max_seq_length to {enough}, which is enough "
                "for all of them, or lower pattern_complexity"
            )
        return text_batch(np.array([row + [-1] * (longest - len(row)) for row in rows]))


def load_data(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
    """Read, split and encode what the configuration names.

    Synthetic samples of the three splits come from different seeds. Real text is split by documents. Those of
    a text that fits into memory are shuffled by the seed and dealt out until test and validation have their
    share of characters; a document that is too large for what is left of a share is cut there. Those of a
    larger text are dealt out by a hash of their number and the seed; one longer than 1/400 of the text is cut
    into pieces first. So no character is in two splits.

    Args:
        config: sources, sizes and the seed.
        tokenizer: see :class:`TextEncoder`.
        max_seq_length: T, tokens of a training window.

    Raises:
        DataError: if a source can't be read, or is too short to train on.
    """
    if config.data == [SYNTHETIC]:
        held_out = max(config.num_samples // 5, config.batch_size)
        train, valid, test = (
            SyntheticBatches(config, tokenizer, split, size, max_seq_length, split == "train")
            for split, size in (("train", config.num_samples), ("valid", held_out), ("test", held_out))
        )
        return Splits(train, valid, test, _floor(valid))
    batches: list[Batches] = []
    for number, passages in enumerate(load_passages(config, tokenizer)):
        name, least = (("training", max_seq_length + 1), ("validation", 2), ("test", 2))[number]
        seed = config.data_seed if number == TRAIN else None
        batches.append(windows_of(passages, config, max_seq_length, seed, f"{name} split", least))
    return Splits(*batches, entropy_floor=None)


def windows_of(
    passages: Passages, config: DataConfig, max_seq_length: int, seed: int | None, name: str, least: int = 2
) -> Batches:
    """Rows of a part of a text; the order is shuffled by a seed, or that of the text where it is None.

    Raises:
        DataError: calling the part by its name, if it has less than so many tokens.
    """
    count = len(passages.run())
    if count < least:
        raise DataError(
            f"{', '.join(config.data)} is too short: its {name} has {count} tokens, "
            f"a window has {max_seq_length + 1}; use more text or a smaller max_seq_length"
        )
    return make_batches(passages, config.batch_size, max_seq_length, seed, config.reset_at_documents)


def load_passages(config: DataConfig, tokenizer: TextEncoder) -> tuple[Passages, Passages, Passages]:
    """The documents of the training, validation and test split of a real text, encoded.

    Raises:
        DataError: if a source can't be read, or is the synthetic one.
    """
    stored = _stored(config, tokenizer)
    if stored is None:
        documents = load_texts(config.data, config.text_field)
        train, valid, test = (_encode(part, tokenizer) for part in _split(documents, config))
        return train, valid, test
    count = len(stored.units)
    splits = deal(count, config.test_fraction, config.valid_fraction, config.data_seed)
    train, valid, test = (
        Passages(stored.tokens, stored.units, splits == split) for split in (TRAIN, VALID, TEST)
    )
    return train, valid, test


def load_whole(config: DataConfig, tokenizer: TextEncoder) -> Passages:
    """All documents of a real text, encoded, in their order.

    Raises:
        DataError: as :func:`load_passages`.
    """
    stored = _stored(config, tokenizer)
    if stored is None:
        return _encode(load_texts(config.data, config.text_field), tokenizer)
    return Passages(stored.tokens, stored.units, np.ones(len(stored.units), dtype=bool))


def training_texts(config: DataConfig) -> Iterable[str]:
    """The training split as texts, for a tokenizer that learns.

    Raises:
        DataError: as :func:`load_data`.
    """
    if config.data == [SYNTHETIC]:
        seeds = (f"{config.data_seed}/train/0/{n}" for n in range(config.num_samples))
        return (grammar.sample(random.Random(seed), config.pattern_complexity).text for seed in seeds)
    return _real_training_texts(config)


def _real_training_texts(config: DataConfig) -> Iterator[str]:
    if _token_file(config) is not None:
        raise DataError(
            f"{config.data[0]} holds no text to learn bpe from: name the tokenizer it was made with"
        )
    origins = find(config.data)
    if _fits_memory(origins, config):
        yield from (
            document.text for document in _split(load_texts(config.data, config.text_field), config)[0]
        )
        return
    # Of an even sample, no part of the text is left out; where the size is unknown, the beginning has to do.
    size, read, unit = total_bytes(origins), 0, 0
    kept = 1.0 if size is None else min(1.0, LEARNED_CHARACTERS / max(size, 1))
    found = (section for origin in origins for section in sections(origin, config.text_field))
    for section, ends in in_units(origins, found):
        split = deal(1, config.test_fraction, config.valid_fraction, config.data_seed, first=unit)[0]
        if split == TRAIN and random.Random(f"{config.data_seed}/bpe/{unit}").random() < kept:
            yield section.text
            read += len(section.text)
        if read > LEARNED_CHARACTERS:
            return
        unit += ends


def _token_file(config: DataConfig) -> Path | None:
    return Path(config.data[0]) if config.data[0].endswith(TOKENS) else None


def _fits_memory(origins: list[Origin], config: DataConfig) -> bool:
    size = total_bytes(origins)
    return size is not None and size <= config.in_memory_mb * 1e6


def _stored(config: DataConfig, tokenizer: TextEncoder) -> TokenFile | None:
    """The text as a token file, or None if it is small enough to be read whole."""
    if config.data == [SYNTHETIC]:
        raise DataError("synthetic data are samples, not documents: name a real text")
    if (path := _token_file(config)) is not None:
        return open_tokens(path, tokenizer)
    cache = TokenCache(config.data, config.text_field, tokenizer, config.cache_dir)
    origins = cache.find()
    return None if _fits_memory(origins, config) else cache.open(origins)


def _split(documents: list[Document], config: DataConfig) -> tuple[list[Document], ...]:
    order = list(documents)
    random.Random(config.data_seed).shuffle(order)
    total = sum(len(document.text) for document in order)
    parts: list[list[Document]] = []
    for fraction in (config.test_fraction, config.valid_fraction):
        part, due = [], round(fraction * total)
        while due > 0 and order:
            document = order.pop()
            head, rest = document.text[:due], document.text[due:]
            part.append(Document(document.name, head))
            due -= len(head)
            if rest:
                order.append(Document(document.name, rest))
        parts.append(part)
    test, valid = parts
    return order, valid, test


def _encode(documents: list[Document], tokenizer: TextEncoder) -> Passages:
    encoded = tokenizer.encode_batch([document.text for document in documents])
    pieces = [np.array([*tokens, tokenizer.eot], dtype=np.int32) for tokens in encoded]
    tokens = np.concatenate([np.array([tokenizer.eot], dtype=np.int32), *pieces])
    ends = np.cumsum([1, *map(len, pieces)])[1:].astype(np.uint64)
    return Passages(tokens, ends * np.uint64(2) + np.uint64(1), np.ones(len(pieces), dtype=bool))


def _floor(batches: SyntheticBatches) -> float:
    nats, tokens = 0.0, 0
    for index in range(batches.num_batches):
        nats -= sum(sample.log_probability for sample in batches.samples(0, index))
        tokens += int(batches.batch(0, index).loss_mask.sum())
    return nats / tokens
