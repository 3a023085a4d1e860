"""Multi-query associative recall: pairs of key and value, then the keys again, each to be answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from experiments import pictures, tables
from experiments.base import Sweep
from experiments.results import Line
from experiments.tasks import TEST_SEED, SyntheticExperiment
from experiments.training import IGNORED, Batch, Budget, accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = tuple[int, int]
"""Tokens T of a row, and its pairs K."""
POWER = 0.01
"""Exponent of the power law of a query's distance, as published (arXiv 2312.04927)."""
FILLER = 0
"""Token of empty places. Keys are 1 to V / 2 - 1, values V / 2 to V - 1."""
WRITES = 2
"""Mean number of writes for each key of a row with rewritten keys."""


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
    """Sizes of the training batches, in turn."""
    tested: tuple[Size, ...] = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64))
    """The same sizes and a larger one."""
    batch_tokens: int = 4096
    """Tokens of a batch."""
    test_rows: int = 256
    """Rows of each test."""
    budget: Budget = Budget(steps=2000)  # noqa: RUF009 - it is frozen
    """Length of training."""


class Recall(SyntheticExperiment):
    """Associative recall in which every key is written once."""

    name = "recall"
    title = "Associative recall"
    about = (
        "Multi-query associative recall: a row holds K pairs of key and value, then every key once more "
        "at a place drawn from a power law, where its value is asked for. Two layers without "
        "feed-forward, trained on four sizes in turn; the largest size was never trained. Learning rate "
        "and weight decay are swept for every model, and the best choice runs on up to three seeds. "
        'State: numbers that a layer carries from token to token. "Matched" models start like FFTNet: '
        "queries equal to keys, and keys that see the previous token."
    )
    measured = "accuracy"
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
                d_model=64,
                trained=((16, 2),),
                tested=((16, 2), (32, 4)),
                batch_tokens=64,
                test_rows=8,
                budget=Budget(steps=4, points=2),
            )

    @property
    def parameters(self) -> None:
        """None: the models have no feed-forward."""
        return None

    def vocabulary(self, case: str) -> int:
        """Return the tokens V."""
        return self.settings.vocab_size

    def rows(self, generator: np.random.Generator, rows: int, size: Size) -> Batch:
        """Return rows of one size."""
        return recall_batch(generator, rows, size, self.settings.vocab_size)

    def step_batch(self, case: str, generator: np.random.Generator, step: int) -> Batch:
        """Return the batch of a training step, whose size changes from step to step."""
        # Sizes in turn, with equally many tokens.
        size = self.settings.trained[step % len(self.settings.trained)]
        return self.rows(generator, self.settings.batch_tokens // size[0], size)

    def tester(self, case: str) -> Callable[[nn.Module], dict[str, float]]:
        """Return the accuracy of a model on all sizes as a function."""
        tests = {
            _label(size): self.rows(np.random.default_rng([TEST_SEED, *size]), self.settings.test_rows, size)
            for size in self.settings.tested
        }
        return lambda model: {name: round(accuracy(model, test), 4) for name, test in tests.items()}

    def score(self, line: Line) -> float:
        """Return the mean accuracy over the trained sizes."""
        return tables.mean([self._accuracy(line, size) for size in self.settings.trained])

    def _accuracy(self, line: Line, size: Size) -> float:
        return line["results"]["accuracy"][_label(size)]

    def control(self, lines: Sequence[Line]) -> str | None:
        """Return a sentence if the reference fails on a trained size, because it was not trained enough."""
        best = self.best(lines, self.reference)
        if best is None:
            return f"void: {self.reference} has no finished run to compare with"
        worst = min(self.settings.trained, key=lambda size: self._accuracy(best, size))
        if self._accuracy(best, worst) >= self.solved:
            return None
        return (
            f"void: {self.reference} reaches {self._accuracy(best, worst):.3f} on {_label(worst)}, "
            f"not {self.solved}, so these results say nothing about recall"
        )

    def tables(self, lines: Sequence[Line]) -> str:
        """Return the accuracy on all sizes at the best choice, and every run of the sweep."""
        largest = self.settings.tested[-1]
        seeds = {name: self.seeds(lines, name) for name in self.reported(lines)}
        scores = {
            "the trained sizes": {
                self.label(name): [self.score(line) for line in found] for name, found in seeds.items()
            },
            _label(largest): {
                self.label(name): [self._accuracy(line, largest) for line in found]
                for name, found in seeds.items()
            },
        }
        rows = [
            [
                self.label(name),
                f"{found[0]['parameters']:,}",
                tables.count(found[0]["state_numbers"]),
                *(
                    tables.number([self._accuracy(line, size) for line in found])
                    for size in self.settings.tested
                ),
            ]
            for name, found in seeds.items()
        ]
        head = ["model", "parameters", "state", *map(_label, self.settings.tested)]
        return f"{self.sentence(scores)}\n\n{tables.table(head, rows)}"

    def sentence(self, scores: dict[str, dict[str, list[float]]]) -> str:
        """Return the sentence about the best model."""
        return tables.winners(scores, self.unit, self.lower_is_better)

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Draw the accuracy over learning rates, and over the size of the state if sizes differ."""
        found = pictures.over_learning_rates(self, lines, "accuracy on the trained sizes")
        if len({line["state_numbers"] for line in lines}) > 1:
            found["state"] = self._over_state(lines)
        return found

    def _over_state(self, lines: Sequence[Line]) -> "Figure":
        figure, panels = pictures.panels(len(self.settings.tested))
        for axes, size in zip(panels, self.settings.tested, strict=True):
            for name in self.reported(lines):
                seeds = self.seeds(lines, name)
                values = [self._accuracy(line, size) for line in seeds]
                state = seeds[0]["state_numbers"]
                colour = pictures.colour(name)
                if state is None:
                    label = f"{self.label(name)} (state grows)"
                    axes.axhline(tables.mean(values), color=colour, label=label)
                else:
                    axes.plot([state] * len(values), values, "o", color=colour, label=self.label(name))
            # Guessing one of the K values of the row is right in 1 / K.
            axes.axhline(1 / size[1], color="black", linestyle=":", label="a guess among the row's values")
            axes.set(ylim=(-0.02, 1.02), title=_label(size))
            axes.set(xlabel="state, numbers a layer", ylabel="accuracy")
            pictures.widen(axes)
        pictures.legend(figure)
        return figure


class RewrittenRecall(Recall):
    """Twice as many writes as keys: a memory must also forget."""

    name = "recall_rewritten"
    title = "Associative recall of rewritten keys"
    about = (
        "As above, but a row of K keys holds 2 K writes in any order: each key once, and K more of keys "
        "drawn at random. The value that was written last is asked for."
    )
    # Weight decay has changed nothing in ``recall``.
    sweep = Sweep(learning_rates=Recall.sweep.learning_rates, weight_decays=Recall.sweep.weight_decays[:1])
    settings = RecallSettings(
        trained=((64, 4), (64, 8), (128, 16), (256, 32)),
        tested=((64, 4), (64, 8), (128, 16), (256, 32), (512, 64)),
    )

    def rows(self, generator: np.random.Generator, rows: int, size: Size) -> Batch:
        """Return rows of one size."""
        return rewritten_batch(generator, rows, size, self.settings.vocab_size)


class AblatedRecall(Recall):
    """Recall with every part of the causal layer removed, at the learning rate of the whole layer."""

    name = "ablation_recall"
    title = "Ablation: recall"
    about = (
        "The recall experiment with one part of the causal layer removed, at the learning rate that is "
        "best for the whole layer; docs/maths.md, section 3, describes the parts."
    )
    reference = "addressed"
    # The whole layer reaches this; attention shows in the recall experiment that the task can be learned.
    solved = 0.96
    sweep = Sweep(learning_rates=(1e-2,), weight_decays=(0.1,))

    def sentence(self, scores: dict[str, dict[str, list[float]]]) -> str:
        """Return the sentence about the part whose removal costs most."""
        return tables.costs(scores, self.label(self.reference), self.unit, self.lower_is_better)


def _label(size: Size) -> str:
    return f"{size[0]} tokens, {size[1]} pairs"


def recall_batch(generator: np.random.Generator, rows: int, size: Size, vocab_size: int) -> Batch:
    """Draw rows in which every key is written once and asked for once; its value follows the query.

    Args:
        generator: source of all random choices.
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
    """Draw distinct keys and any values, both (B, K)."""
    half = vocab_size // 2
    # Sorting random numbers gives distinct keys; 0 is the filler.
    keys_BK = generator.random((rows, half - 1)).argsort(axis=1)[:, :pairs] + 1
    return keys_BK, generator.integers(half, vocab_size, (rows, pairs))


def with_queries(
    generator: np.random.Generator, written: np.ndarray, keys: np.ndarray, values: np.ndarray, tokens: int
) -> Batch:
    """Build rows that begin with the writes and ask for every key once behind them.

    Args:
        generator: source of the places of the queries.
        written: ids (B, W) of the writes.
        keys: (B, K), each asked for once.
        values: (B, K), their answers.
        tokens: T >= W + 2 K.

    Returns:
        Ids int64 (B, T), and targets (B, T).
    """
    rows, pairs = keys.shape
    start = written.shape[1]
    slots = (tokens - start) // 2
    # Slots near the writes are likelier, by the power law of the published task.
    log_weight = (POWER - 1) * np.log(np.arange(1, slots + 1))
    # Gumbel trick: the largest of log-weights with Gumbel noise are a draw without replacement.
    drawn = log_weight + generator.gumbel(size=(rows, slots))
    place_BK = start + 2 * (-drawn).argsort(axis=1)[:, :pairs]
    inputs_BT = np.full((rows, tokens), FILLER, dtype=np.int64)
    targets_BT = np.full((rows, tokens), IGNORED, dtype=np.int64)
    inputs_BT[:, :start] = written
    np.put_along_axis(inputs_BT, place_BK, keys, axis=1)
    np.put_along_axis(inputs_BT, place_BK + 1, values, axis=1)
    np.put_along_axis(targets_BT, place_BK, values, axis=1)
    return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


def rewritten_batch(generator: np.random.Generator, rows: int, size: Size, vocab_size: int) -> Batch:
    """Draw rows of 2 K writes of K keys, in which every key is asked for once.

    Args:
        generator: source of all random choices.
        rows: B.
        size: tokens T and keys K, 6 K <= T.
        vocab_size: V, more than 2 K.

    Returns:
        Ids int64 (B, T), and targets (B, T): the last written value at each query.
    """
    tokens, pairs = size
    keys_BK, _ = draw_pairs(generator, rows, pairs, vocab_size)
    # Each key once, and as many writes of random keys again.
    again_BK = generator.integers(0, pairs, (rows, (WRITES - 1) * pairs))
    all_BK = np.broadcast_to(np.arange(pairs), (rows, pairs))
    which_BW = generator.permuted(np.concatenate([all_BK, again_BK], axis=1), axis=1)
    written_BW = generator.integers(vocab_size // 2, vocab_size, which_BW.shape)
    last_BK = np.empty((rows, pairs), dtype=np.int64)
    # Later writes overwrite earlier ones.
    for write in range(which_BW.shape[1]):
        np.put_along_axis(last_BK, which_BW[:, write, None], written_BW[:, write, None], axis=1)
    # Each write names its key and then its value.
    named_BW = np.take_along_axis(keys_BK, which_BW, axis=1)
    written = np.stack([named_BW, written_BW], axis=2).reshape(rows, -1)
    return with_queries(generator, written, keys_BK, last_BK, tokens)
