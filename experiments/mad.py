"""Mechanistic architecture design: six small tasks that single out one skill each."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments import arms
from experiments.base import Sweep
from experiments.mad_tasks import MAD_TASKS
from experiments.tasks import TaskExperiment, TaskSettings
from experiments.training import Batch, Budget


@dataclass(frozen=True, kw_only=True)
class MadSettings(TaskSettings):
    """Sizes of the six tasks."""

    shortened: int = 1
    """Rows are of the published length over this."""


class Compressor(nn.Module):
    """Reads a row and says every token of it from the last hidden state and the place asked for.

    Args:
        stack: the mixers.
        tokens: T, the mark at the end included.
        d_model: width D.
        vocab_size: V.
    """

    def __init__(self, stack: arms.Stack, tokens: int, d_model: int, vocab_size: int) -> None:
        super().__init__()
        self.stack = stack
        self.places = nn.Embedding(tokens, d_model)
        self.decode = nn.Sequential(
            nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, vocab_size)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of the tokens at all places of ids (B, T)."""
        last_B1D = self.stack.hidden(tokens)[:, -1:]
        return self.decode(last_B1D + self.places.weight)


class Mad(TaskExperiment):
    """All six tasks at their lowest difficulty."""

    name = "mad"
    title = "Mechanistic architecture design"
    about = (
        "Six small tasks, written anew after their published description, at their lowest difficulty: two "
        "blocks of mixer and feed-forward of equal size. Rows are drawn afresh where published are 12,800 "
        "fixed ones, and the budgets are small, so the numbers stand beside each other, not beside published "
        "ones. Accuracy."
    )
    cases = tuple(MAD_TASKS)
    sweep = Sweep(learning_rates=(1e-3, 3e-3, 1e-2))
    settings = MadSettings(rows=32, budget=Budget(steps=1500))

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_quick:
            self.sweep = Sweep(learning_rates=(3e-3,), seeds=(0,))
            self.settings = replace(
                self.settings,
                d_model=16,
                num_layers=1,
                parameters=30_000,
                rows=2,
                test_rows=4,
                budget=Budget(steps=4, points=2),
                shortened=4,
            )

    def vocabulary(self, case: str) -> int:
        """Tokens V of a task."""
        return MAD_TASKS[case].vocab_size

    def model(self, case: str, stack: arms.Stack) -> nn.Module:
        """The stack, but for compression, which has a decoder."""
        if case != "compression":
            return stack
        return Compressor(stack, self._tokens(case), self.settings.d_model, self.vocabulary(case))

    def train_batch(self, case: str, generator: np.random.Generator, rows: int) -> Batch:
        """Rows of the published length."""
        ids_BT, targets_BT = MAD_TASKS[case].draw(generator, rows, self._tokens(case))
        return torch.from_numpy(ids_BT), torch.from_numpy(targets_BT)

    def test_batch(self, case: str, generator: np.random.Generator, rows: int) -> Batch:
        """The same."""
        return self.train_batch(case, generator, rows)

    def _tokens(self, case: str) -> int:
        return MAD_TASKS[case].tokens // self.settings.shortened
