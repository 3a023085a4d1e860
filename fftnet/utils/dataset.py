"""Data as seekable streams: batch number i of epoch e is a pure function of the seed, e and i.

A row is T + 1 token ids, of which the first T are fed and the last T are targets; -1 marks where nothing is.
"""

import glob
import random
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fftnet.tasks import grammar
from fftnet.tasks.objective import Batches

SYNTHETIC, PYTHON_DOCS, PYTHON_SOURCE = "synthetic", "python-docs", "python-source"
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".csv", ".json", ".jsonl", ".html", ".xml", ".py", ".c", ".h")
"""What counts as text in a folder; a file that is named on its own is always read."""


class DataError(ValueError):
    """Data can't be read or used; the message names the source and the way out."""


class TextEncoder(Protocol):
    """The part of a tokenizer that data need."""

    @property
    def eot(self) -> int:
        """Id that ends a document."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts."""
        ...


@dataclass(frozen=True)
class Splits:
    """Three streams that share nothing."""

    train: Batches
    valid: Batches
    test: Batches
    floor: float | None
    """Entropy of the validation split in nats per token, None where it can't be known."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read.

    Raises:
        ValueError: if a field is out of range.
    """

    data: list[str] = field(default_factory=lambda: [SYNTHETIC])
    """synthetic, python-docs, python-source, or text files, folders and globs, as many as you like."""
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

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data must name at least one source, such as synthetic or a text file")
        if SYNTHETIC in self.data and len(self.data) > 1:
            raise ValueError("synthetic data can't be mixed with other sources: name one or the other")
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.pattern_complexity <= 1.0:
            raise ValueError(f"pattern_complexity must lie in [0, 1], got {self.pattern_complexity}")
        held_out = self.valid_fraction + self.test_fraction
        if min(self.valid_fraction, self.test_fraction) <= 0 or held_out >= 0.9:
            raise ValueError("valid_fraction and test_fraction must be above 0 and below 0.9 together")


@dataclass(frozen=True)
class Document:
    """One text and where it is from."""

    name: str
    text: str


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

    def batch(self, epoch: int, index: int) -> Tensor:
        """int64 rows (B, L) with L as long as the longest of them needs.

        Raises:
            DataError: if a sample does not fit max_seq_length.
        """
        eot = self._tokenizer.eot
        texts = [sample.text for sample in self.samples(epoch, index)]
        rows = [[eot, *tokens, eot] for tokens in self._tokenizer.encode_batch(texts)]
        longest = max(map(len, rows))
        if longest > self._max_seq_length + 1:
            raise DataError(
                f"a synthetic sample has {longest} tokens: set max_seq_length to {longest - 1} or more, "
                "or lower pattern_complexity"
            )
        return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])


class WindowBatches:
    """Windows of a long stream of tokens.

    Args:
        tokens: int32 ids.
        batch_size: B.
        max_seq_length: T.
        seed: of the offsets and the order; None takes consecutive windows from the start, each target once.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, max_seq_length: int, seed: int | None) -> None:
        self._tokens, self._batch_size, self._length, self._seed = tokens, batch_size, max_seq_length, seed
        windows = (len(tokens) - 1) // max_seq_length
        self._windows = windows if seed is not None else -(-(len(tokens) - 1) // max_seq_length)
        self.num_batches = -(-self._windows // batch_size)

    def batch(self, epoch: int, index: int) -> Tensor:
        """int64 rows (B, T + 1); the last window of a stream without a seed is padded with -1."""
        span = slice(index * self._batch_size, (index + 1) * self._batch_size)
        if self._seed is None:
            starts = np.arange(self._windows)[span] * self._length
        else:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(self._windows)[span]
            starts = order * self._length + rng.integers(self._length)
            starts = np.minimum(starts, len(self._tokens) - self._length - 1)
        rows = np.full((len(starts), self._length + 1), -1, dtype=np.int64)
        for row, start in zip(rows, starts, strict=True):
            piece = self._tokens[start : start + self._length + 1]
            row[: len(piece)] = piece
        return torch.from_numpy(rows)


def load_data(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
    """Read, split and encode what the configuration names.

    Synthetic samples of the three splits come from different seeds. Real text is split by documents: they are
    shuffled by the seed and dealt out until test and validation have their share of characters; a document
    that is too large for what is left of a share is cut there. So no character is in two splits.

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
    parts = _split(load_texts(config.data), config)
    sources = ", ".join(config.data)
    streams = [_encode(part, tokenizer) for part in parts]
    for name, tokens in zip(("training", "validation", "test"), streams, strict=True):
        if len(tokens) < (max_seq_length + 1 if name == "training" else 2):
            raise DataError(
                f"{sources} is too short: its {name} split has {len(tokens)} tokens, "
                f"a window has {max_seq_length + 1}; use more text or a smaller max_seq_length"
            )
    train, valid, test = (
        WindowBatches(tokens, config.batch_size, max_seq_length, config.data_seed if n == 0 else None)
        for n, tokens in enumerate(streams)
    )
    return Splits(train, valid, test, None)


def training_texts(config: DataConfig) -> Iterable[str]:
    """The training split as texts, for a tokenizer that learns.

    Raises:
        DataError: as :func:`load_data`.
    """
    if config.data == [SYNTHETIC]:
        seeds = (f"{config.data_seed}/train/0/{n}" for n in range(config.num_samples))
        return (grammar.sample(random.Random(seed), config.pattern_complexity).text for seed in seeds)
    return (document.text for document in _split(load_texts(config.data), config)[0])


def load_texts(sources: Sequence[str]) -> list[Document]:
    """Read every document that the sources name, each file once, in a fixed order.

    Raises:
        DataError: naming the source that is missing, empty or not UTF-8.
    """
    documents: dict[str, Document] = {}
    for source in sources:
        if source == PYTHON_DOCS:
            topics = import_module("pydoc_data.topics").topics
            found = [Document(f"{PYTHON_DOCS}/{name}", text) for name, text in sorted(topics.items())]
        elif source == PYTHON_SOURCE:
            found = [_read(path) for path in _standard_library()]
        else:
            found = [_read(path) for path in _files(source)]
        documents.update({document.name: document for document in found})
    return list(documents.values())


def _standard_library() -> list[Path]:
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = ("asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging")
    more = ("multiprocessing", "unittest", "urllib", "xml")
    folders = [library, *(library / name for name in packages + more)]
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return [path for path in files if path.stat().st_size > 100]


def _files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in TEXT_SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"the folder {source} holds no text file ({' '.join(TEXT_SUFFIXES)})")
        return files
    if path.exists():
        return [path]
    files = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file())
    if not files:
        known = ", ".join((SYNTHETIC, PYTHON_DOCS, PYTHON_SOURCE))
        raise DataError(f"{source} matches no file; name a text file, a folder, a glob, or one of {known}")
    return files


def _read(path: Path) -> Document:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"{path} is not UTF-8 text (byte {error.start})"
        raise DataError(f"{place}: convert it or leave it out") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    if not text.strip():
        raise DataError(f"{path} is empty: leave it out")
    return Document(str(path), text)


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


def _encode(documents: list[Document], tokenizer: TextEncoder) -> np.ndarray:
    encoded = tokenizer.encode_batch([document.text for document in documents])
    pieces = [np.array([*tokens, tokenizer.eot], dtype=np.int32) for tokens in encoded]
    return np.concatenate([np.array([tokenizer.eot], dtype=np.int32), *pieces])


def _floor(batches: SyntheticBatches) -> float:
    nats, tokens = 0.0, 0
    for index in range(batches.num_batches):
        nats -= sum(sample.log_probability for sample in batches.samples(0, index))
        tokens += int((batches.batch(0, index)[:, 1:] >= 0).sum())
    return nats / tokens
