"""Texts with a label each: lines of JSON with a text and the name of its class."""

import json
import random
from pathlib import Path

import torch

from fftnet.data.errors import DataError
from fftnet.protocols import Batch, TextEncoder
from fftnet.utils.dataset import DataConfig, Splits


class LabelledTexts:
    """Rows of ids, cut to ``max_seq_length``, with a class each."""

    def __init__(self, rows: list[tuple[list[int], int]], batch_size: int, seed: int | None) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self.num_batches = -(-len(rows) // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Padded ids (B, T), labels (B,)."""
        order = list(range(len(self._rows)))
        if self._seed is not None:
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
        chosen = [self._rows[n] for n in order[index * self._batch_size : (index + 1) * self._batch_size]]
        longest = max(len(ids) for ids, _ in chosen)
        inputs = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in chosen])
        mask = torch.tensor([[True] * len(ids) + [False] * (longest - len(ids)) for ids, _ in chosen])
        labels = torch.tensor([label for _, label in chosen])
        return Batch(inputs, labels, torch.ones(len(chosen), dtype=torch.bool), mask)


def load_labels(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
    """Every fifth line validates and every fifth one tests."""
    found = []
    for name in config.data:
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{name} can't be read: {error.strerror}") from error
        found += [json.loads(line) for line in lines if line.strip()]
    classes = sorted({row["label"] for row in found})
    ids = tokenizer.encode_batch([row["text"] for row in found])
    rows = [(i[:max_seq_length], classes.index(row["label"])) for i, row in zip(ids, found, strict=True)]
    train = [row for n, row in enumerate(rows) if n % 5 > 1]
    return Splits(
        train=LabelledTexts(train, config.batch_size, config.data_seed),
        valid=LabelledTexts(rows[::5], config.batch_size, None),
        test=LabelledTexts(rows[1::5], config.batch_size, None),
    )
