"""Texts with numbers: rows of tables with a text and a number."""

import numpy as np
import torch

from fftnet.data.labelled import pad_tokens
from fftnet.data.sources import read_rows
from fftnet.data.sources.tables import text_of
from fftnet.protocols import Batch, TextEncoder
from fftnet.utils.dataset import DataConfig, Splits


class NumberedTexts:
    """Rows of ids with numbers; a seed shuffles them in each epoch."""

    def __init__(self, rows: list[tuple[np.ndarray, float]], batch_size: int, seed: int | None) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self.num_batches = -(-len(rows) // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return padded ids (B, T) and numbers (B,)."""
        order = np.arange(len(self._rows))
        if self._seed is not None:
            np.random.default_rng((self._seed, epoch)).shuffle(order)
        first = index * self._batch_size
        chosen = [self._rows[n] for n in order[first : first + self._batch_size]]
        inputs, mask = pad_tokens([ids for ids, _ in chosen])
        numbers = torch.tensor([number for _, number in chosen])
        return Batch(inputs, numbers, torch.ones(len(chosen), dtype=torch.bool), mask)


def load_numbers(config: DataConfig, number_field: str, tokenizer: TextEncoder) -> Splits:
    """Return splits: one row in five for validation, one for the test."""
    rows = [
        (tokenizer.encode_array(text_of(row, config.text_field)), float(row.values[number_field]))
        for row in read_rows(config.data, [config.text_field, number_field])
    ]
    train = [row for n, row in enumerate(rows) if n % 5 > 1]
    return Splits(
        train=NumberedTexts(train, config.batch_size, config.data_seed),
        valid=NumberedTexts(rows[::5], config.batch_size, None),
        test=NumberedTexts(rows[1::5], config.batch_size, None),
    )
