"""What the experiments on small synthetic tasks share: settings, one run, tables and pictures.

A task is a function that draws a batch; the experiment says which sizes are trained and tested.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from experiments import arms, markdown, pictures
from experiments.base import FINISHED, Experiment, Run
from experiments.results import Line
from experiments.training import Batch, Budget, Checkpoint, accuracy, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_SEED = 10**6
"""Test rows have a stream of their own, which no run's seed reaches."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Sizes of the models on small tasks."""

    d_model: int = 64
    """Width D."""
    num_layers: int = 2
    """Blocks of mixer and feed-forward."""
    parameters: int = 150_000
    """Of the whole model, met by the width of the feed-forward."""
    rows: int = 64
    """Rows of a batch."""
    test_rows: int = 256
    """Rows of the test."""
    budget: Budget = Budget(steps=2000)  # noqa: RUF009 - it is frozen
    """Of training."""


class TaskExperiment(Experiment):
    """Several tasks, a case each; the score is an accuracy."""

    settings: Any
    measure_name = "accuracy"

    @abstractmethod
    def vocabulary(self, case: str) -> int:
        """Tokens V of a task."""

    @abstractmethod
    def train_batch(self, case: str, generator: np.random.Generator, rows: int) -> Batch:
        """A batch of the sizes that are trained."""

    @abstractmethod
    def test_batch(self, case: str, generator: np.random.Generator, rows: int) -> Batch:
        """The rows that are tested, with a generator of their own."""

    def rescale(self, case: str, accuracy: float) -> float:
        """The score that an accuracy is worth."""
        return accuracy

    def model(self, case: str, stack: arms.Stack) -> nn.Module:
        """The model of a task around its stack."""
        return stack

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model on one task and test it."""
        settings = self.settings
        sizes = arms.Sizes(
            vocab_size=self.vocabulary(run.case),
            d_model=settings.d_model,
            num_layers=settings.num_layers,
            parameters=settings.parameters,
        )
        stack = arms.build(run.arm, sizes, run.seed)
        model = self.model(run.case, stack).to(self.workbench.device)
        test = self.test_batch(run.case, np.random.default_rng([TEST_SEED]), settings.test_rows)

        def batch(step: int) -> Batch:
            return self.train_batch(run.case, np.random.default_rng([run.seed, step]), settings.rows)

        def measure() -> dict[str, Any]:
            return {"score": round(self.rescale(run.case, accuracy(model, test)), 4)}

        trained = train(model, run, settings.budget, batch, measure, Checkpoint(run, self.workbench))
        results: dict[str, Any] = {"curve": trained.curve, "training_seconds": round(trained.seconds, 1)}
        if trained.outcome == FINISHED:
            results["score"] = trained.curve[-1]["score"]
        return {
            "parameters": arms.count_parameters(model),
            "state_numbers": arms.count_state(stack),
            "outcome": trained.outcome,
            "results": results,
        }

    def score(self, line: Line) -> float:
        """At the end of training."""
        return line["results"]["score"]

    def tables(self, lines: Sequence[Line]) -> str:
        """An arm a row, a task a column, the mean over the tasks last where all are there."""
        names = [arm for arm in arms.ARMS if any(self.best(lines, arm, case) for case in self.cases)]
        rows = []
        for arm in names:
            seeds = {case: self.seeds(lines, arm, case) for case in self.cases}
            first = next(found[0] for found in seeds.values() if found)
            values = {case: [self.score(line) for line in found] for case, found in seeds.items() if found}
            cells = [markdown.spread(values[case]) if case in values else "" for case in self.cases]
            means = [sum(found) / len(found) for found in values.values()]
            total = f"{sum(means) / len(means):.3f}" if len(means) == len(self.cases) else ""
            rows.append([self.label(arm), markdown.count(first["state_numbers"]), *cells, total])
        return markdown.table(["model", "state", *self.cases, "mean"], rows)

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """The score over learning rates, a panel for each task."""
        return pictures.over_learning_rates(self, lines, self.measure_name)
