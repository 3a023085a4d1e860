"""From the words of ``--data`` to batches: number i of epoch e is a pure function of the seed, e and i."""

import itertools
import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data.cache import TokenCache, total_bytes
from fftnet.data.chunks import read_chunks
from fftnet.data.config import DataConfig, Splits
from fftnet.data.digest import TextDigest
from fftnet.data.errors import DataError, listed
from fftnet.data.sources import TOKENS, resolve
from fftnet.data.split_view import SplitView, TokenArrays, view_segments
from fftnet.data.splits import BLOCK, TEST, TRAIN, VALID, assign_splits, segments
from fftnet.data.synthetic import load_synthetic, training_samples
from fftnet.data.tables import DELIMITED
from fftnet.data.token_file import open_tokens
from fftnet.data.tokenization import tokenize
from fftnet.data.windows import StretchBatches, make_batches
from fftnet.protocols import Batches, TextEncoder

__all__ = [
    "DataConfig",
    "DataError",
    "EvaluationData",
    "SplitView",
    "Splits",
    "load_data",
    "load_evaluation_data",
    "load_views",
    "load_whole",
    "training_texts",
]

logger = logging.getLogger(__name__)

LEARNED_CHARACTERS = 2**26
"""Of a larger text, about so many characters teach the bpe tokenizer."""


class EvaluationData(NamedTuple):
    """Text that a trained model is measured on."""

    batches: Batches
    documents: SplitView | None
    """The same text by documents; None where there are none."""
    digest: str | None = None
    """Digest of the whole text, all splits included, as in ``Splits``."""


class ReadText(NamedTuple):
    """A tokenized text and the digest of its content, None if that is unknown."""

    arrays: TokenArrays
    digest: str | None


def load_data(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
    """Read, split and encode what the configuration names.

    Synthetic samples of the three splits come from different seeds. Of real text, see
    ``fftnet.data.splits`` for which part is in which split; no character is in two.

    Args:
        config: sources, sizes and the seed.
        tokenizer: encodes them.
        max_seq_length: T, tokens of a training window.

    Raises:
        DataError: if a source can't be read, or is too short to train on.
    """
    if config.synthetic:
        return load_synthetic(config, tokenizer, max_seq_length)
    read = _load_tokens(config, tokenizer)
    train, valid, test = _split_views(read.arrays, config)
    return Splits(
        train=_train_batches(train, config, max_seq_length),
        valid=_held_out_batches(valid, config, max_seq_length, "validation split"),
        test=_held_out_batches(test, config, max_seq_length, "test split"),
        digest=read.digest,
    )


def load_evaluation_data(
    config: DataConfig, tokenizer: TextEncoder, max_seq_length: int, *, whole: bool = False
) -> EvaluationData:
    """Text for a trained model to be measured on: each target once, in its order.

    Args:
        config: sources, sizes and the seed of the splits.
        tokenizer: encodes them.
        max_seq_length: T, tokens of a window.
        whole: all of a text, not its test split.

    Raises:
        DataError: if a source can't be read, is too short, or all of the synthetic samples are asked for.
    """
    if config.synthetic and not whole:
        return EvaluationData(load_synthetic(config, tokenizer, max_seq_length).test, None)
    read = _load_tokens(config, tokenizer)
    view = view_segments(read.arrays) if whole else _split_views(read.arrays, config)[TEST]
    name = "text" if whole else "test split"
    return EvaluationData(_held_out_batches(view, config, max_seq_length, name), view, read.digest)


def load_views(config: DataConfig, tokenizer: TextEncoder) -> tuple[SplitView, SplitView, SplitView]:
    """The training, validation and test split of a real text, encoded.

    Raises:
        DataError: if a source can't be read, or is the synthetic one.
    """
    return _split_views(_load_tokens(config, tokenizer).arrays, config)


def load_whole(config: DataConfig, tokenizer: TextEncoder) -> SplitView:
    """All of a real text, encoded.

    Raises:
        DataError: as ``load_views``.
    """
    return view_segments(_load_tokens(config, tokenizer).arrays)


def training_texts(config: DataConfig) -> Iterable[str]:
    """The training split as texts, for a tokenizer that learns; of a large text, an even sample.

    Raises:
        DataError: as ``load_data``, once it is read.
    """
    return training_samples(config) if config.synthetic else _real_training_texts(config)


def _real_training_texts(config: DataConfig) -> Iterator[str]:
    files = resolve(config.data)
    # Where the size is not known beforehand, the beginning has to do.
    size = total_bytes(files) or 0
    kept = min(1.0, LEARNED_CHARACTERS / max(size, 1))
    rng = random.Random(f"{config.data_seed}/bpe")
    splits = _splits_in_order(config)
    taken = next(splits) == TRAIN and rng.random() < kept
    read = 0
    for chunk in segments(read_chunks(files, config.text_field)):
        if taken:
            yield chunk.text
            read += len(chunk.text)
        if read > LEARNED_CHARACTERS:
            return
        if chunk.ends_segment:
            taken = next(splits) == TRAIN and rng.random() < kept


def _splits_in_order(config: DataConfig) -> Iterator[int]:
    """The split of segment 0, 1, 2, ..."""
    for first in itertools.count(0, BLOCK):
        yield from _assign(BLOCK, config, first).tolist()


def _assign(count: int, config: DataConfig, first: int = 0) -> np.ndarray:
    return assign_splits(
        count,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        seed=config.data_seed,
        first=first,
    )


def _split_views(text: TokenArrays, config: DataConfig) -> tuple[SplitView, SplitView, SplitView]:
    splits = _assign(len(text.segment_ends), config)
    train, valid, test = (view_segments(text, splits == split) for split in (TRAIN, VALID, TEST))
    return train, valid, test


def _load_tokens(config: DataConfig, tokenizer: TextEncoder) -> ReadText:
    """Read all of a real text, into memory if it is small and into a file otherwise."""
    if config.data[0].endswith(TOKENS):
        file = open_tokens(Path(config.data[0]), tokenizer)
        return ReadText(file.arrays, file.header.text)
    cache = TokenCache(config.data, config.text_field, tokenizer, config.cache_dir)
    files = cache.resolve()
    tables = [file.name for file in files if Path(file.name).suffix.lower() in DELIMITED]
    if tables:
        logger.warning(
            "%s is read as plain text, header and delimiters included; to read one column, save the table as "
            ".jsonl or .parquet (text_field names the column)",
            listed(tables),
        )
    size = total_bytes(files)
    if size is None or size > config.in_memory_mb * 1e6:
        file = cache.open(files)
        return ReadText(file.arrays, file.header.text)
    text = TextDigest()
    arrays = tokenize(segments(text.follow(read_chunks(files, config.text_field))), tokenizer)
    return ReadText(arrays, text.hexdigest())


def _train_batches(view: SplitView, config: DataConfig, max_seq_length: int) -> Batches:
    if config.carry_state:
        return _stretches(view, config, max_seq_length)
    _check_length(view, config, max_seq_length, "training split", max_seq_length + 1)
    return make_batches(view, config.batch_size, max_seq_length, config.data_seed, config.reset_at_documents)


def _stretches(view: SplitView, config: DataConfig, max_seq_length: int) -> Batches:
    run = view.run()
    needed = config.batch_size * config.carry_state * max_seq_length + 1
    if len(run) < needed:
        raise DataError(
            f"{', '.join(config.data)} is too short: its training split has {len(run)} tokens, "
            f"{config.batch_size} rows of carry_state {config.carry_state} windows take {needed}; "
            "use more text or a smaller carry_state, batch_size or max_seq_length"
        )
    return StretchBatches(run, config.batch_size, max_seq_length, config.carry_state, config.data_seed)


def _held_out_batches(view: SplitView, config: DataConfig, max_seq_length: int, name: str) -> Batches:
    _check_length(view, config, max_seq_length, name, 2)
    return make_batches(view, config.batch_size, max_seq_length, None, config.reset_at_documents)


def _check_length(view: SplitView, config: DataConfig, max_seq_length: int, name: str, least: int) -> None:
    count = len(view.run())
    if count < least:
        raise DataError(
            f"{', '.join(config.data)} is too short: its {name} has {count} tokens, "
            f"a window has {max_seq_length + 1}; use more text or a smaller max_seq_length"
        )
