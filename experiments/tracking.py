"""State tracking: parity, modular arithmetic, the words of the symmetric group S3.

Trained on short rows, tested on long ones: what has no state that turns fails beyond the trained lengths.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch

from experiments.base import Sweep
from experiments.tasks import TaskExperiment, TaskSettings
from experiments.training import IGNORED, Batch, Budget

Generator = np.random.Generator
MODULUS = 5
OPERATORS = 3
"""Plus, minus, times: the tokens behind the digits."""
END = MODULUS + OPERATORS
"""The token that asks for the value of what stands before it."""
PERMUTATIONS = np.array(list(permutations(range(3))))
"""The elements of S3, (6, 3)."""
PRODUCT = np.array(
    [
        [PERMUTATIONS.tolist().index(second[first].tolist()) for second in PERMUTATIONS]
        for first in PERMUTATIONS
    ]
)
"""Index of the element "first, then second", (6, 6)."""


@dataclass(frozen=True, kw_only=True)
class TrackingSettings(TaskSettings):
    """Sizes of the state tracking tasks."""

    trained: tuple[int, int] = (3, 40)
    """Shortest and longest row of training, each length as likely."""
    tested: tuple[int, int] = (40, 256)
    """Shortest and longest row of the test."""


@dataclass(frozen=True)
class Task:
    """One task."""

    draw: Callable[[Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Lengths (B,) to ids and targets, both (B, longest); targets are ``IGNORED`` where nothing is asked."""
    vocab_size: int
    guess: float
    """Accuracy of guessing."""


def parity(generator: Generator, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits; asked at the last one of a row: whether the ones so far are odd."""
    bits_BT = generator.integers(0, 2, (len(lengths), lengths.max()))
    return bits_BT, at_last(bits_BT.cumsum(axis=1) % 2, lengths)


def modular_arithmetic(generator: Generator, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digits below 5 with plus, minus or times between them, then an end; asked there: the value modulo 5.

    Times binds closer than plus and minus; there are no brackets. A row has an even number of tokens, so an
    odd length is made one longer.
    """
    lengths = lengths + lengths % 2
    ids_BT = generator.integers(0, MODULUS, (len(lengths), lengths.max()))
    operators = generator.integers(MODULUS, MODULUS + OPERATORS, ids_BT[:, 1::2].shape)
    ids_BT[:, 1::2] = operators
    values_BT = np.full(ids_BT.shape, IGNORED)
    total_B = np.zeros(len(lengths), dtype=np.int64)
    term_B = ids_BT[:, 0].copy()
    for at in range(1, ids_BT.shape[1], 2):
        values_BT[:, at] = (total_B + term_B) % MODULUS
        if at + 1 < ids_BT.shape[1]:
            operator_B = ids_BT[:, at] - MODULUS
            digit_B = ids_BT[:, at + 1]
            times_B = operator_B == 2
            total_B = np.where(times_B, total_B, total_B + term_B) % MODULUS
            term_B = (
                np.where(times_B, term_B * digit_B, np.where(operator_B == 1, -digit_B, digit_B)) % MODULUS
            )
    np.put_along_axis(ids_BT, lengths[:, None] - 1, END, axis=1)
    return ids_BT, at_last(values_BT, lengths)


def s3(generator: Generator, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elements of S3; asked at every one: the product so far."""
    ids_BT = generator.integers(0, len(PERMUTATIONS), (len(lengths), lengths.max()))
    targets_BT = ids_BT.copy()
    for at in range(1, ids_BT.shape[1]):
        targets_BT[:, at] = PRODUCT[targets_BT[:, at - 1], ids_BT[:, at]]
    behind_BT = np.arange(ids_BT.shape[1]) >= lengths[:, None]
    return ids_BT, np.where(behind_BT, IGNORED, targets_BT)


def at_last(values_BT: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The values at each row's last token; ``IGNORED`` elsewhere."""
    return np.where(np.arange(values_BT.shape[1]) == lengths[:, None] - 1, values_BT, IGNORED)


TASKS: dict[str, Task] = {
    "parity": Task(parity, 2, 1 / 2),
    "modular arithmetic": Task(modular_arithmetic, END + 1, 1 / MODULUS),
    "S3": Task(s3, len(PERMUTATIONS), 1 / len(PERMUTATIONS)),
}


class Tracking(TaskExperiment):
    """Lengths 3 to 40 in training, 40 to 256 in the test."""

    name = "tracking"
    title = "State tracking"
    about = (
        "Parity of bits and modular arithmetic (mod 5, without brackets), asked at the end of a row, and the "
        "word problem of S3, asked at every token. Trained on rows of 3 to 40 tokens, tested on 40 to 256. "
        "Scaled accuracy: 0 is guessing, 1 is all right."
    )
    measure_name = "scaled accuracy"
    cases = tuple(TASKS)
    sweep = Sweep(learning_rates=(1e-3, 3e-3, 1e-2))
    settings = TrackingSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_quick:
            self.sweep = Sweep(learning_rates=(3e-3,), seeds=(0,))
            self.settings = TrackingSettings(
                d_model=16,
                num_layers=1,
                parameters=30_000,
                rows=4,
                test_rows=8,
                budget=Budget(steps=4, points=2),
                trained=(3, 8),
                tested=(8, 16),
            )

    def vocabulary(self, case: str) -> int:
        """Tokens V of a task."""
        return TASKS[case].vocab_size

    def train_batch(self, case: str, generator: Generator, rows: int) -> Batch:
        """Short rows."""
        return self._batch(case, generator, rows, self.settings.trained)

    def test_batch(self, case: str, generator: Generator, rows: int) -> Batch:
        """Long rows."""
        return self._batch(case, generator, rows, self.settings.tested)

    def _batch(self, case: str, generator: Generator, rows: int, lengths: tuple[int, int]) -> Batch:
        drawn_B = generator.integers(lengths[0], lengths[1] + 1, rows)
        ids_BT, targets_BT = TASKS[case].draw(generator, drawn_B)
        return torch.from_numpy(ids_BT), torch.from_numpy(targets_BT)

    def rescale(self, case: str, accuracy: float) -> float:
        """0 for guessing, 1 for all right."""
        guess = TASKS[case].guess
        return (accuracy - guess) / (1 - guess)
