"""Multi-query associative recall: pairs of key and value, then the keys again, each to be answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from experiments import arms, markdown, pictures
from experiments.base import FINISHED, Experiment, Run, Sweep
from experiments.results import Line
from experiments.training import IGNORED, Batch, Budget, Checkpoint, accuracy, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = tuple[int, int]
"""Tokens T of a row, and its pairs K."""
POWER = 0.01
"""Exponent of the power law by which a query's distance is drawn, as published (arXiv 2312.04927)."""
FILLER = 0
"""The token where nothing stands; keys are 1 to V / 2 - 1, values V / 2 to V - 1."""
TEST_SEED = 10**6
"""Test rows have a stream of their own, which no run's seed reaches."""


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """Sizes of the recall experiments."""

    vocab_size: int = 512
    """Tokens V: a filler, keys, values."""
    d_model: int = 64
    """Width D."""
    num_layers: int = 2
    """Blocks, without feed-forward."""
    trained: tuple[Size, ...] = ((64, 4), (64, 8), (64, 16), (128, 32))
    """Tokens and pairs of the batches, in turn."""
    tested: tuple[Size, ...] = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64))
    """The same and a larger one."""
    batch_tokens: int = 4096
    """Tokens of a batch."""
    test_rows: int = 256
    """Rows of each test."""
    budget: Budget = Budget(steps=2000)  # noqa: RUF009 - it is frozen
    """Of training."""


class Recall(Experiment):
    """Every key is written once."""

    name = "recall"
    title = "Associative recall"
    about = (
        "Multi-query associative recall: a row holds K pairs of key and value, then every key once more at a "
        "place drawn from a power law, where its value must be said. Two layers without feed-forward, "
        "trained on four sizes in turn; the longest was never trained. Learning rate and weight decay are "
        "swept for every arm, and the best is run on three seeds. State: numbers that a layer carries from "
        "token to token."
    )
    solved: ClassVar[float] = 0.99
    """Accuracy that the reference must reach on every trained size."""
    sweep = Sweep(learning_rates=(2e-3, 5e-3, 1e-2, 2e-2), weight_decays=(0.1, 0.0))
    settings = RecallSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_quick:
            self.sweep = Sweep(learning_rates=(3e-3, 1e-2), weight_decays=(0.1,), seeds=(0, 1))
            self.settings = RecallSettings(
                vocab_size=32,
                d_model=16,
                trained=((16, 2),),
                tested=((16, 2), (32, 4)),
                batch_tokens=64,
                test_rows=8,
                budget=Budget(steps=4, points=2),
            )

    def batch(self, generator: np.random.Generator, rows: int, size: Size) -> Batch:
        """Rows of one size."""
        return recall_batch(generator, rows, size, self.settings.vocab_size)

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model and test it on all sizes."""
        settings = self.settings
        sizes = arms.Sizes(
            vocab_size=settings.vocab_size,
            d_model=settings.d_model,
            num_layers=settings.num_layers,
            parameters=None,
        )
        model = arms.build(run.arm, sizes, run.seed).to(self.workbench.device)
        tests = {
            _label(size): self.batch(np.random.default_rng([TEST_SEED, *size]), settings.test_rows, size)
            for size in settings.tested
        }

        def batch(step: int) -> Batch:
            size = settings.trained[step % len(settings.trained)]
            return self.batch(np.random.default_rng([run.seed, step]), settings.batch_tokens // size[0], size)

        def measure() -> dict[str, Any]:
            return {"accuracy": {name: round(accuracy(model, test), 4) for name, test in tests.items()}}

        trained = train(model, run, settings.budget, batch, measure, Checkpoint(run, self.workbench))
        results: dict[str, Any] = {"curve": trained.curve, "training_seconds": round(trained.seconds, 1)}
        if trained.outcome == FINISHED:
            results["accuracy"] = trained.curve[-1]["accuracy"]
        return {
            "parameters": arms.count_parameters(model),
            "state_numbers": arms.count_state(model),
            "outcome": trained.outcome,
            "results": results,
        }

    def score(self, line: Line) -> float:
        """Mean accuracy over the trained sizes."""
        found = line["results"]["accuracy"]
        return sum(found[_label(size)] for size in self.settings.trained) / len(self.settings.trained)

    def control(self, lines: Sequence[Line]) -> str | None:
        """Attention must solve every trained size, or the task was not learnable within the budget."""
        best = self.best(lines, self.reference)
        if best is None:
            return f"void: {self.reference} has no finished run to compare with"
        found = best["results"]["accuracy"]
        failed = [size for size in self.settings.trained if found[_label(size)] < self.solved]
        if not failed:
            return None
        worst = min(failed, key=lambda size: found[_label(size)])
        return (
            f"void: {self.reference} reaches {found[_label(worst)]:.3f} on {_label(worst)}, "
            f"not {self.solved}, so these results say nothing about recall"
        )

    def tables(self, lines: Sequence[Line]) -> str:
        """Accuracy at the best, over seeds, and every run of the sweep."""
        labels = [_label(size) for size in self.settings.tested]
        rows = []
        for arm in self.reported(lines):
            seeds = self.seeds(lines, arm)
            best = seeds[0]
            cells = [
                markdown.spread([line["results"]["accuracy"][label] for line in seeds]) for label in labels
            ]
            size = [f"{best['parameters']:,}", markdown.count(best["state_numbers"])]
            choice = f"{best['learning_rate']:g} / {best['weight_decay']:g}"
            rows.append([self.label(arm), *size, choice, str(len(seeds)), *cells])
        head = ["model", "parameters", "state", "lr / weight decay", "seeds", *labels]
        caption = "The whole sweep, mean accuracy over the trained sizes:"
        return "\n\n".join([markdown.table(head, rows), caption, self._sweep_table(lines)])

    def _sweep_table(self, lines: Sequence[Line]) -> str:
        pairs = [(rate, decay) for decay in self.sweep.weight_decays for rate in self.sweep.learning_rates]
        rows = []
        for arm in self.reported(lines):
            found = {
                (line["learning_rate"], line["weight_decay"]): f"{self.score(line):.3f}"
                if line["outcome"] == FINISHED
                else line["outcome"]
                for line in self.swept(lines, arm)
            }
            rows.append([self.label(arm), *(found.get(pair, "") for pair in pairs)])
        return markdown.table(["model", *(f"{rate:g} / {decay:g}" for rate, decay in pairs)], rows)

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Accuracy over learning rates and over the numbers of the state, where these differ."""
        found = pictures.over_learning_rates(self, lines, "accuracy on the trained sizes")
        if len({line["state_numbers"] for line in lines}) > 1:
            found["state"] = self._over_state(lines)
        return found

    def _over_state(self, lines: Sequence[Line]) -> "Figure":
        figure, panels = pictures.panels(len(self.settings.tested))
        for axes, size in zip(panels, self.settings.tested, strict=True):
            for arm in self.reported(lines):
                seeds = self.seeds(lines, arm)
                values = [line["results"]["accuracy"][_label(size)] for line in seeds]
                state = seeds[0]["state_numbers"]
                colour = pictures.colour(arm)
                if state is None:
                    label = f"{self.label(arm)} (state grows)"
                    axes.axhline(float(np.mean(values)), color=colour, label=label)
                else:
                    axes.plot([state] * len(values), values, "o", color=colour, label=self.label(arm))
            axes.axhline(1 / size[1], color="black", linestyle=":", label="a guess among the row's values")
            axes.set(ylim=(-0.02, 1.02), title=_label(size))
            axes.set(xlabel="state, numbers a layer", ylabel="accuracy")
            pictures.widen(axes)
        pictures.legend(figure)
        return figure


def _label(size: Size) -> str:
    return f"{size[0]} tokens, {size[1]} pairs"


def recall_batch(generator: np.random.Generator, rows: int, size: Size, vocab_size: int) -> Batch:
    """Rows in which every key is written once and asked for once; its value follows the query.

    Args:
        generator: decides all.
        rows: B.
        size: tokens T and pairs K, 4 K <= T.
        vocab_size: V, more than 2 K.

    Returns:
        Ids int64 (B, T), and targets (B, T): the value at each query.
    """
    tokens, pairs = size
    keys_BK, values_BK = draw_pairs(generator, rows, pairs, vocab_size)
    written_BKx2 = np.stack([keys_BK, values_BK], axis=2).reshape(rows, 2 * pairs)
    return with_queries(generator, written_BKx2, keys_BK, values_BK, tokens)


def draw_pairs(
    generator: np.random.Generator, rows: int, pairs: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys and any values, both (B, K)."""
    half = vocab_size // 2
    keys_BK = generator.random((rows, half - 1)).argsort(axis=1)[:, :pairs] + 1
    return keys_BK, generator.integers(half, vocab_size, (rows, pairs))


def with_queries(
    generator: np.random.Generator, written: np.ndarray, keys: np.ndarray, values: np.ndarray, tokens: int
) -> Batch:
    """Rows that begin with what is written and ask for every key once, behind it.

    Args:
        generator: draws the places of the queries.
        written: ids (B, W) at the beginning.
        keys: (B, K), each asked for once.
        values: (B, K), their answers.
        tokens: T >= W + 2 K.

    Returns:
        Ids int64 (B, T), and targets (B, T).
    """
    rows, pairs = keys.shape
    start = written.shape[1]
    slots = (tokens - start) // 2
    log_weight = (POWER - 1) * np.log(np.arange(1, slots + 1))
    # The largest of log-weights with Gumbel noise are a draw without replacement, in its order.
    drawn = log_weight + generator.gumbel(size=(rows, slots))
    place_BK = start + 2 * (-drawn).argsort(axis=1)[:, :pairs]
    inputs_BT = np.full((rows, tokens), FILLER, dtype=np.int64)
    targets_BT = np.full((rows, tokens), IGNORED, dtype=np.int64)
    inputs_BT[:, :start] = written
    np.put_along_axis(inputs_BT, place_BK, keys, axis=1)
    np.put_along_axis(inputs_BT, place_BK + 1, values, axis=1)
    np.put_along_axis(targets_BT, place_BK, values, axis=1)
    return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)
