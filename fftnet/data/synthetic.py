"""Batches of generated samples: a language whose entropy is known exactly."""

import random
from collections.abc import Iterator

from fftnet.data import grammar
from fftnet.data.config import DataConfig, Splits
from fftnet.data.errors import DataError
from fftnet.data.windows import text_batch
from fftnet.protocols import Batch, TextEncoder


class SyntheticBatches:
    """Samples of the grammar, one a row: end of text, the text, end of text.

    Args:
        config: seed, complexity and batch size.
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
        self._config = config
        self._tokenizer = tokenizer
        self._split = split
        self._num_samples = num_samples
        self._max_seq_length = max_seq_length
        self._fresh = fresh
        self.num_batches = -(-num_samples // config.batch_size)

    def samples(self, epoch: int, index: int) -> list[grammar.Sample]:
        """The samples behind a batch."""
        first = index * self._config.batch_size
        last = min(first + self._config.batch_size, self._num_samples)
        epoch = epoch if self._fresh else 0
        return [_sample(self._config, self._split, epoch, number) for number in range(first, last)]

    def batch(self, epoch: int, index: int) -> Batch:
        """Rows as long as the longest sample needs.

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
        return text_batch(rows)


def load_synthetic(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
    """Three streams of samples that come from different seeds; those that are held out never change."""
    held_out = max(config.num_samples // 5, config.batch_size)
    train = SyntheticBatches(config, tokenizer, "train", config.num_samples, max_seq_length, fresh=True)
    valid, test = (
        SyntheticBatches(config, tokenizer, split, held_out, max_seq_length, fresh=False)
        for split in ("valid", "test")
    )
    return Splits(train, valid, test, _entropy(valid))


def training_samples(config: DataConfig) -> Iterator[str]:
    """The texts of the first epoch's training split."""
    return (_sample(config, "train", 0, number).text for number in range(config.num_samples))


def _sample(config: DataConfig, split: str, epoch: int, number: int) -> grammar.Sample:
    seed = f"{config.data_seed}/{split}/{epoch}/{number}"
    return grammar.sample(random.Random(seed), config.pattern_complexity)


def _entropy(batches: SyntheticBatches) -> float:
    """Nats per token of the true distribution."""
    nats = 0.0
    tokens = 0
    for index in range(batches.num_batches):
        nats -= sum(sample.log_probability for sample in batches.samples(0, index))
        tokens += int(batches.batch(0, index).loss_mask.sum())
    return nats / tokens
