"""Experiments on small synthetic tasks: base class, state tracking, mechanistic architecture design."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments import building, models, pictures, tables
from experiments.base import Experiment, Run, Sweep
from experiments.generators import MAD_TASKS, TRACKING_TASKS
from experiments.results import Line
from experiments.training import Batch, Budget, Checkpoint, accuracy, train
from fftnet.model.fftnet_model import FFTNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_SEED = 10**6
"""Random seed of the test rows, which no run's seed reaches."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Sizes of the models on small tasks."""

    d_model: int = 64
    """Width D."""
    num_layers: int = 2
    """Blocks of mixer and feed-forward."""
    parameters: int = 150_000
    """Parameters of the whole model, reached by the width of the feed-forward."""
    rows: int = 64
    """Rows of a batch."""
    test_rows: int = 256
    """Rows of the test."""
    budget: Budget = Budget(steps=2000)  # noqa: RUF009 - it is frozen
    """Length of training."""


class SyntheticExperiment(Experiment):
    """Models of ids, trained on rows that are drawn for each step and tested on fixed ones."""

    settings: Any
    measured: ClassVar[str]
    """Key of the test's result, on the curve and in the line."""

    @property
    def parameters(self) -> int | None:
        """Parameters of the whole model (None: no feed-forward)."""
        return self.settings.parameters

    @abstractmethod
    def vocabulary(self, case: str) -> int:
        """Return the tokens V of a task."""

    @abstractmethod
    def step_batch(self, case: str, generator: np.random.Generator, step: int) -> Batch:
        """Return the batch of a training step."""

    @abstractmethod
    def tester(self, case: str) -> Callable[[nn.Module], Any]:
        """Return the test of a task: a function of the model."""

    def model(self, case: str, language_model: FFTNet) -> nn.Module:
        """Return the model of a task around its language model."""
        return language_model

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model on one task and test it."""
        # All tasks are asked as next tokens of a language model without text.
        language_model = building.build_language_model(
            run.arm,
            vocab_size=self.vocabulary(run.case),
            d_model=self.settings.d_model,
            num_layers=self.settings.num_layers,
            parameters=self.parameters,
            seed=run.seed,
        )
        model = self.model(run.case, language_model).to(self.workbench.device)
        test = self.tester(run.case)

        def batch(step: int) -> Batch:
            return self.step_batch(run.case, np.random.default_rng([run.seed, step]), step)

        def measure() -> dict[str, Any]:
            return {self.measured: test(model)}

        trained = train(model, run, self.settings.budget, batch, measure, Checkpoint(run, self.workbench))
        # The last point of the curve is the end of training.
        return trained.line(
            model,
            building.count_state(language_model),
            lambda: {self.measured: trained.curve[-1][self.measured]},
        )


class TaskExperiment(SyntheticExperiment):
    """Several tasks, a case each. The score is an accuracy."""

    measured = "score"

    @abstractmethod
    def draw(self, case: str, generator: np.random.Generator, rows: int, test: bool) -> Batch:
        """Return rows of a task, for training or for the test."""

    def rescale(self, case: str, accuracy: float) -> float:
        """Return the score of an accuracy."""
        return accuracy

    def step_batch(self, case: str, generator: np.random.Generator, step: int) -> Batch:
        """Return the batch of a training step."""
        return self.draw(case, generator, self.settings.rows, test=False)

    def tester(self, case: str) -> Callable[[nn.Module], float]:
        """Return the score of a model on fixed test rows as a function."""
        rows = self.draw(case, np.random.default_rng([TEST_SEED]), self.settings.test_rows, test=True)
        return lambda model: round(self.rescale(case, accuracy(model, rows)), 4)

    def score(self, line: Line) -> float:
        """Return the score at the end of training."""
        return line["results"]["score"]

    def tables(self, lines: Sequence[Line]) -> str:
        """Return a model a row, a task a column, and the mean over the tasks if all are there."""
        rows = []
        means: dict[str, list[float]] = {}
        scores: dict[str, dict[str, list[float]]] = {}
        for model in models.MODELS:
            seeds = {case: self.seeds(lines, model, case) for case in self.cases}
            found = [line for lines_of in seeds.values() for line in lines_of]
            if not found:
                continue
            values = {case: [self.score(line) for line in lines_of] for case, lines_of in seeds.items()}
            # A mean over some of the tasks would not compare with the others.
            if all(values.values()):
                means[self.label(model)] = [tables.mean([tables.mean(scores) for scores in values.values()])]
            for case in filter(values.get, self.cases):
                scores.setdefault(case, {})[self.label(model)] = values[case]
            cells = [tables.number(values[case]) for case in self.cases]
            total = tables.number(means.get(self.label(model), []))
            rows.append([self.label(model), tables.count(found[0]["state_numbers"]), *cells, total])
        head = ["model", "state", *self.cases, "mean"]
        # Without a model that ran on all tasks, the sentence names the winner of each task.
        whole = ({"": means}, f"{self.unit}, mean of all tasks") if means else (scores, self.unit)
        sentence = tables.winners(*whole, lower=False)
        return f"{sentence}\n\n{tables.table(head, rows)}"

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Draw the score over learning rates, a panel for each task."""
        return pictures.over_learning_rates(self, lines, self.unit.lower())


@dataclass(frozen=True, kw_only=True)
class TrackingSettings(TaskSettings):
    """Sizes of the state tracking tasks."""

    trained: tuple[int, int] = (3, 40)
    """Shortest and longest row of training; each length is as likely."""
    tested: tuple[int, int] = (40, 256)
    """Shortest and longest row of the test."""


class Tracking(TaskExperiment):
    """State tracking: lengths 3 to 40 in training, 40 to 256 in the test."""

    name = "tracking"
    title = "State tracking"
    about = (
        "Parity of bits, modular arithmetic (mod 5; plus, minus, times, no brackets) and the word problem of "
        "the group S3, asked at every token. Trained on rows of 3 to 40 tokens, tested on 40 to 256. Scaled "
        "accuracy: 0 is guessing, 1 is no error. The GRU is the control: where it fails, nothing follows."
    )
    unit = "Scaled accuracy"
    cases = tuple(TRACKING_TASKS)
    sweep = Sweep(learning_rates=(1e-3, 3e-3, 1e-2))
    settings = TrackingSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_quick:
            self.sweep = Sweep(learning_rates=(3e-3,), seeds=(0,))
            self.settings = TrackingSettings(
                d_model=64,
                num_layers=1,
                parameters=150_000,
                rows=4,
                test_rows=8,
                budget=Budget(steps=4, points=2),
                trained=(3, 8),
                tested=(8, 16),
            )

    def vocabulary(self, case: str) -> int:
        """Return the tokens V of a task."""
        return TRACKING_TASKS[case].vocab_size

    def draw(self, case: str, generator: np.random.Generator, rows: int, test: bool) -> Batch:
        """Return short rows for training, long ones for the test."""
        shortest, longest = self.settings.tested if test else self.settings.trained
        # Every length is as likely.
        lengths_B = generator.integers(shortest, longest + 1, rows)
        ids_BT, targets_BT = TRACKING_TASKS[case].draw(generator, lengths_B)
        return torch.from_numpy(ids_BT), torch.from_numpy(targets_BT)

    def rescale(self, case: str, accuracy: float) -> float:
        """Return 0 for guessing and 1 for no error."""
        guess = TRACKING_TASKS[case].guess
        return (accuracy - guess) / (1 - guess)


@dataclass(frozen=True, kw_only=True)
class MadSettings(TaskSettings):
    """Sizes of the six tasks of mechanistic architecture design."""

    shortened: int = 1
    """Divisor of the published length of rows."""


class Compressor(nn.Module):
    """Decode every token of a row from the last hidden state and the place that is asked for.

    Args:
        language_model: model whose hidden state is read.
        tokens: T, the mark at the end included.
        d_model: width D.
        vocab_size: V.
    """

    def __init__(self, language_model: FFTNet, tokens: int, d_model: int, vocab_size: int) -> None:
        super().__init__()
        self.language_model = language_model
        self.places = nn.Embedding(tokens, d_model)
        self.decode = nn.Sequential(
            nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, vocab_size)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) of the tokens at all places of ids (B, T)."""
        embedded_BTD = self.language_model.embedding(tokens)
        # The bottleneck of the task: everything must be in one hidden state.
        last_B1D = self.language_model.backbone(embedded_BTD)[:, -1:]
        return self.decode(last_B1D + self.places.weight)


class Mad(TaskExperiment):
    """Mechanistic architecture design: six small tasks at their lowest difficulty, one skill each."""

    name = "mad"
    title = "Mechanistic architecture design"
    about = (
        "Six small tasks, written again after their published description, at their lowest difficulty: two "
        "blocks of mixer and feed-forward of equal size. Rows are drawn for every batch, where the published "
        "set has 12,800 fixed ones, and the budgets are small. Compare the numbers with each other, not with "
        "published ones."
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
                d_model=64,
                num_layers=1,
                parameters=150_000,
                rows=2,
                test_rows=4,
                budget=Budget(steps=4, points=2),
                shortened=4,
            )

    def vocabulary(self, case: str) -> int:
        """Return the tokens V of a task."""
        return MAD_TASKS[case].vocab_size

    def model(self, case: str, language_model: FFTNet) -> nn.Module:
        """Return the language model, or for compression the model with its decoder."""
        if case != "compression":
            return language_model
        return Compressor(language_model, self._tokens(case), self.settings.d_model, self.vocabulary(case))

    def draw(self, case: str, generator: np.random.Generator, rows: int, test: bool) -> Batch:
        """Return rows of the published length."""
        ids_BT, targets_BT = MAD_TASKS[case].draw(generator, rows, self._tokens(case))
        return torch.from_numpy(ids_BT), torch.from_numpy(targets_BT)

    def _tokens(self, case: str) -> int:
        return MAD_TASKS[case].tokens // self.settings.shortened
