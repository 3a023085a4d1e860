"""From the words of ``--data`` to batches: batch i of epoch e is a pure function of the seed, e and i."""

import itertools
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data.cache import cache_path, cached_tokens, open_tokens, total_bytes
from fftnet.data.config import DataConfig, Splits
from fftnet.data.errors import DataError, listed
from fftnet.data.sources import DELIMITED, TOKENS, resolve
from fftnet.data.splits import BLOCK, TEST, TRAIN, VALID, assign_splits, read_chunks, segments
from fftnet.data.synthetic import load_synthetic, training_samples
from fftnet.data.tokens import SplitView, TokenArrays, tokenize, view_segments
from fftnet.data.windows import DocumentBatches, StretchBatches, WindowBatches
from fftnet.protocols import Batches, TextEncoder

logger = logging.getLogger(__name__)

LEARNED_CHARACTERS = 2**26
"""Approximate maximum number of characters used to train the BPE tokenizer."""


class EvaluationData(NamedTuple):
    """Text that a trained model is measured on."""

    batches: Batches
    documents: SplitView | None
    """The same text by documents; None for synthetic samples."""
    digest: str | None = None
    """Digest of the whole text, all splits included, as in ``Splits``."""


def load_data(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
    """Read, split and encode the data of a configuration, into windows of ``max_seq_length`` tokens.

    No character of a text is in two splits (see ``fftnet.data.splits``), and synthetic samples come from
    different seeds. A source that can't be read, or is too short to train on, is a DataError.
    """
    if config.synthetic:
        return load_synthetic(config, tokenizer, max_seq_length)
    text = load_tokens(config, tokenizer)
    train, valid, test = split_views(text, config)
    return Splits(
        train=_train_batches(train, config, max_seq_length),
        valid=_batches(valid, config, max_seq_length, "validation split", None),
        test=_batches(test, config, max_seq_length, "test split", None),
        digest=text.digest,
    )


def load_evaluation_data(
    config: DataConfig, tokenizer: TextEncoder, max_seq_length: int, *, whole: bool = False
) -> EvaluationData:
    """Load the test split, or the ``whole`` text, to measure a model on: each target once, in order."""
    if config.synthetic and not whole:
        return EvaluationData(load_synthetic(config, tokenizer, max_seq_length).test, None)
    text = load_tokens(config, tokenizer)
    view = view_segments(text) if whole else split_views(text, config)[TEST]
    name = "text" if whole else "test split"
    return EvaluationData(_batches(view, config, max_seq_length, name, None), view, text.digest)


def load_tokens(config: DataConfig, tokenizer: TextEncoder) -> TokenArrays:
    """Read all of a real text: a small one into memory, a larger one through the token cache."""
    if config.data[0].endswith(TOKENS):
        return open_tokens(Path(config.data[0]), tokenizer)
    try:
        files = resolve(config.data)
    except DataError as error:
        path = cache_path(config, tokenizer)
        if not path.exists():
            raise
        raise DataError(
            f"{error}; its tokens are still in {path}: put the text back, or use them with --data {path}"
        ) from None
    tables = [file.name for file in files if Path(file.name).suffix.lower() in DELIMITED]
    if tables:
        logger.warning(
            "%s is read as plain text, header and delimiters included; to read one column, save the table as "
            ".jsonl or .parquet (text_field names the column)",
            listed(tables),
        )
    # An unknown size may be a large one.
    size = total_bytes(files)
    if size is None or size > config.in_memory_mb * 1e6:
        return cached_tokens(config, files, tokenizer)
    return tokenize(segments(read_chunks(files, config.text_field)), tokenizer)


def split_views(text: TokenArrays, config: DataConfig) -> list[SplitView]:
    """Return the training, validation and test split of a text."""
    splits = _assign(len(text.segment_ends), config)
    return [view_segments(text, splits == split) for split in (TRAIN, VALID, TEST)]


def training_texts(config: DataConfig) -> Iterator[str]:
    """Yield the texts of the training split to train a tokenizer; of a large text, an even sample."""
    if config.synthetic:
        yield from training_samples(config)
        return
    files = resolve(config.data)
    # If the size is unknown, all of the beginning is taken.
    size = total_bytes(files) or 0
    kept = min(1.0, LEARNED_CHARACTERS / max(size, 1))
    # Whole segments are taken or not, so that the sample comes from all parts of the text.
    rng = random.Random(f"{config.data_seed}/bpe")
    splits = (split for first in itertools.count(0, BLOCK) for split in _assign(BLOCK, config, first))
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


def _assign(count: int, config: DataConfig, first: int = 0) -> np.ndarray:
    valid, test = config.valid_fraction, config.test_fraction
    return assign_splits(count, valid_fraction=valid, test_fraction=test, seed=config.data_seed, first=first)


def _train_batches(view: SplitView, config: DataConfig, max_seq_length: int) -> Batches:
    if not config.carry_state:
        return _batches(view, config, max_seq_length, "training split", config.data_seed)
    needed = config.batch_size * config.carry_state * max_seq_length + 1
    if len(view) < needed:
        raise DataError(
            f"{', '.join(config.data)} is too short: its training split has {len(view)} tokens, "
            f"{config.batch_size} rows of carry_state {config.carry_state} windows take {needed}; "
            "use more text or a smaller carry_state, batch_size or max_seq_length"
        )
    return StretchBatches(view, config.batch_size, max_seq_length, config.carry_state, config.data_seed)


def _batches(
    view: SplitView, config: DataConfig, max_seq_length: int, name: str, seed: int | None
) -> Batches:
    # Training windows are never padded; a held-out text needs one target.
    if len(view) < (2 if seed is None else max_seq_length + 1):
        raise DataError(
            f"{', '.join(config.data)} is too short: its {name} has {len(view)} tokens, "
            f"a window has {max_seq_length + 1}; use more text or a smaller max_seq_length"
        )
    kind = DocumentBatches if config.reset_at_documents else WindowBatches
    return kind(view, config.batch_size, max_seq_length, seed)
