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

    Training samples are new in every epoch; those of the other splits (valid, test) never change. Every
    sample must fit ``max_seq_length``.
    """

    def __init__(
        self, config: DataConfig, tokenizer: TextEncoder, split: str, num_samples: int, max_seq_length: int
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._split = split
        self._num_samples = num_samples
        self._max_seq_length = max_seq_length
        self.num_batches = -(-num_samples // config.batch_size)

    def samples(self, epoch: int, index: int) -> list[grammar.Sample]:
        """Return the samples of a batch."""
        first = index * self._config.batch_size
        last = min(first + self._config.batch_size, self._num_samples)
        # A held-out split must stay the same for losses to be comparable.
        epoch = epoch if self._split == "train" else 0
        return [_sample(self._config, self._split, epoch, number) for number in range(first, last)]

    def batch(self, epoch: int, index: int) -> Batch:
        """Return rows that are padded to the longest sample."""
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
    """Make three streams of samples, with the entropy of the validation split."""
    # At least one full batch.
    held_out = max(config.num_samples // 5, config.batch_size)
    train, valid, test = (
        SyntheticBatches(config, tokenizer, split, count, max_seq_length)
        for split, count in (("train", config.num_samples), ("valid", held_out), ("test", held_out))
    )
    nats = 0.0
    tokens = 0
    for index in range(valid.num_batches):
        nats -= sum(sample.log_probability for sample in valid.samples(0, index))
        tokens += int(valid.batch(0, index).loss_mask.sum())
    return Splits(train, valid, test, entropy_floor=nats / tokens)


def training_samples(config: DataConfig) -> Iterator[str]:
    """Return the texts of the first epoch of the training split."""
    return (_sample(config, "train", 0, number).text for number in range(config.num_samples))


def _sample(config: DataConfig, split: str, epoch: int, number: int) -> grammar.Sample:
    # A seed for each sample: any sample can be drawn without those before it.
    seed = f"{config.data_seed}/{split}/{epoch}/{number}"
    return grammar.sample(random.Random(seed), config.pattern_complexity)
