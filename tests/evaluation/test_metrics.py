"""Metrics against NumPy and numbers worked out by hand, and their plots."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from models import make
from runs import Chain, bigram, text
from torch import Tensor, nn

from fftnet.evaluation import inspection_plots
from fftnet.evaluation.inspection import inspect_tokens
from fftnet.metrics.averages import evaluate
from fftnet.metrics.classes import class_report, evaluate_classes, macro_f1
from fftnet.metrics.plots import plain_ticks, plot_confusion, plot_loss_by_position, plot_losses
from fftnet.protocols import Batch
from fftnet.tasks.labels import LabelObjective, balanced_weights
from fftnet.tasks.next_token import NextToken

NAMES = ("a", "b", "c", "d")
ACTUAL = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
PREDICTED = [0, 0, 0, 1, 3, 1, 1, 0, 0, 1]
"""Class c is never predicted, class d never actual."""
MACRO_F1 = (3 / 5 + 4 / 7) / 4


def test_metrics_of_text_match_numpy() -> None:
    model = bigram()
    rows = Chain().rows(0, 0)
    rows[2, 5:] = -1

    class One:
        num_batches = 1

        def batch(self, epoch: int, index: int) -> Batch:
            return text(rows)

    metrics = evaluate(model.train(), NextToken([1, 2, 3, 4, 5, 6, 7, 0]), One())
    assert model.training
    with torch.no_grad():
        log_p = model.eval()(rows[:, :-1].clamp(min=0)).log_softmax(-1).numpy()
    targets = rows[:, 1:].numpy()
    counted = [(b, t) for b in range(8) for t in range(16) if targets[b, t] >= 0]
    losses = [-log_p[b, t, targets[b, t]] for b, t in counted]
    size = sum([1, 2, 3, 4, 5, 6, 7, 0][token] for token in targets[targets >= 0])
    expected = {
        "loss": np.mean(losses),
        "perplexity": math.exp(np.mean(losses)),
        "accuracy": np.mean([log_p[b, t].argmax() == targets[b, t] for b, t in counted]),
        "bits_per_byte": np.sum(losses) / math.log(2) / size,
        "first_position_loss": np.mean([-log_p[b, 0, targets[b, 0]] for b in range(8)]),
    }
    assert metrics.named() == pytest.approx(expected, rel=1e-5)


class Oracle(nn.Module):
    """Model with logit 2 for the class in the input and 0 for others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return nn.functional.one_hot(inputs, len(NAMES)).float() * 2 * self.weight


class Rows:
    """Ten rows in batches of four; two more in the last one do not count."""

    num_batches = 3

    def batch(self, epoch: int, index: int) -> Batch:
        predicted = torch.tensor([*PREDICTED, 2, 2])[4 * index : 4 * index + 4]
        actual = torch.tensor([*ACTUAL, 2, 2])[4 * index : 4 * index + 4]
        return Batch(predicted, actual, torch.arange(4 * index, 4 * index + 4) < 10)


def test_every_number_of_a_classifier_is_the_one_worked_out_by_hand() -> None:
    model = Oracle().train()
    report = evaluate_classes(model, Rows(), NAMES)
    assert report["confusion_matrix"] == [[3, 1, 0, 1], [1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    expected: dict[str, dict[str, Any]] = {
        "a": {"precision": 3 / 5, "recall": 3 / 5, "f1": 3 / 5, "support": 5},
        "b": {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3},
        "c": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 2},
        "d": {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0},
    }
    for name, numbers in expected.items():
        assert report["classes"][name] == pytest.approx(numbers), name
    assert (report["rows"], report["accuracy"]) == (10, 0.5)
    assert report["macro_f1"] == pytest.approx(MACRO_F1)
    # One of four logits is 2 and three are 0; half of the rows are right.
    right, wrong = (-torch.tensor([logit, 0.0, 0.0, 2.0 - logit]).log_softmax(0)[0] for logit in (2.0, 0.0))
    assert report["loss"] == pytest.approx(float(right + wrong) / 2, rel=1e-6)
    metrics = evaluate(model, LabelObjective(4, unit="texts"), Rows())
    assert model.training
    assert metrics.named() == pytest.approx(
        {"loss": report["loss"], "accuracy": 0.5, "macro_f1": MACRO_F1}, rel=1e-6
    )
    both = evaluate(
        model, LabelObjective(4, unit="texts"), Rows(), all_reduce=lambda *values: [2 * v for v in values]
    )
    # Two processes with the same rows: twice the counts, the same means.
    assert (metrics.count, both.count) == (10, 20)
    assert both.named() == pytest.approx(metrics.named())


def test_a_class_without_actual_and_predicted_rows_does_not_count() -> None:
    assert macro_f1(torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])) == 1.0
    assert macro_f1(torch.zeros(3, 2)) is None
    assert class_report(torch.zeros(2, 2, dtype=torch.int64), ("a", "b"))["accuracy"] is None


def test_smoothing_weights_and_mixed_targets_against_sums_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]])

    class Fixed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return logits

    labels = torch.tensor([0, 2, 2])
    mask = torch.tensor([True, True, False])
    weights = [0.5, 1.0, 2.0]
    log_p = logits.log_softmax(-1)
    # Smoothing puts e / K on each class; each part of a target has the weight of its class.
    smooth = (nn.functional.one_hot(labels, 3) * 0.7 + 0.1) * torch.tensor(weights)
    mixed = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.2, 0.8], [0.0, 0.0, 1.0]])
    weighted = LabelObjective(3, unit="texts", label_smoothing=0.3, class_weights=weights)
    for objective, given, targets in (
        (weighted, labels, smooth),
        (LabelObjective(3, unit="images"), mixed, mixed),
    ):
        losses = objective(Fixed(), Batch(labels, given, mask))
        assert float(losses.loss) == pytest.approx(float(-(targets * log_p).sum(dim=1)[:2].sum()), rel=1e-6)
        assert losses.counts is not None
        assert losses.counts.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_balanced_weights_let_all_classes_weigh_alike() -> None:
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    weights = balanced_weights(labels, 3)
    assert weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert sum(weights[label] for label in labels) == pytest.approx(10)


HISTORY = [{"step": step, "train_loss": 40 / step, "loss": 44 / step} for step in range(10, 60, 10)]
NOWHERE = Path("unused.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that receives figures instead of files."""
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    return figures


def tick_labels(axis: Any) -> list[str]:
    """Return the labels of the ticks that lie on the axis."""
    axis.get_figure().draw_without_rendering()
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]


@pytest.mark.parametrize(
    ("side", "low", "high", "labels"),
    [
        ("y", 0.9, 3.6, ["1", "1.5", "2", "2.5", "3", "3.5"]),
        ("y", 1.25, 1.33, ["1.26", "1.28", "1.3", "1.32"]),
        ("y", 0.019, 3, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ("y", 2, 3000, ["2", "5", "10", "20", "50", "100", "200", "500", "1,000", "2,000"]),
        ("y", 2, 30_000, ["10", "100", "1,000", "10,000"]),
        ("x", 0.9, 3.6, ["1", "2", "3"]),
        ("x", 0.019, 3, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ("x", 2, 3000, ["10", "100", "1,000"]),
        ("x", 9e-6, 2, ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(side: str, low: float, high: float, labels: list[str]) -> None:
    axes = Figure().subplots()
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    plain_ticks(axis)
    assert tick_labels(axis) == labels


def test_the_loss_plot_has_a_thin_line_of_single_steps_under_the_means(drawn: list[Any]) -> None:
    logged = [[step, 42 / step] for step in range(2, 52, 2)]
    plot_losses(HISTORY, 0.5, NOWHERE, "tokens", logged)
    axes = drawn[0].axes[0]
    single, mean, validation, floor = axes.get_lines()
    assert single.get_xydata().tolist() == logged
    assert single.get_linewidth() < mean.get_linewidth()
    assert mean.get_ydata().tolist() == [row["train_loss"] for row in HISTORY]
    assert validation.get_ydata().tolist() == [row["loss"] for row in HISTORY]
    assert list(floor.get_ydata()) == [0.5, 0.5]
    assert axes.get_title() == "Training and validation loss"
    assert tick_labels(axes.yaxis) == ["0.5", "1", "2", "5", "10", "20"]


def test_positions_are_written_in_full_and_the_confusion_matrix_names_its_sides(drawn: list[Any]) -> None:
    rows = [{"first": 2**n - 1, "last": 2 ** (n + 1) - 2, "loss": 2 - 0.1 * n} for n in range(11)]
    plot_loss_by_position(rows, 64, 1.5, NOWHERE)
    axes = drawn[0].axes[0]
    assert axes.get_title() == "Loss by position in the document"
    assert {"1", "16", "1,024"} <= set(tick_labels(axes.xaxis))
    plot_confusion([[3, 1], [0, 2]], ["cat", "dog"], NOWHERE)
    axes = drawn[1].axes[0]
    names = (axes.get_title(), axes.get_ylabel(), axes.get_xlabel())
    assert names == ("Confusion matrix", "true", "predicted")
    # Row 0, the true cats: one was taken for a dog.
    assert {text.get_position(): text.get_text() for text in axes.texts}[1, 0] == "1"


def test_inspection_pictures_have_titles_and_the_names_of_layers(drawn: list[Any]) -> None:
    model = make(num_layers=1).float()
    tokens = torch.arange(9)
    seen = inspect_tokens(model, tokens)
    labels = [str(token) for token in tokens.tolist()]
    inspection_plots.plot_filters(seen, 8, NOWHERE)
    inspection_plots.plot_time_scales(seen, 16, NOWHERE)
    inspection_plots.plot_spectra(seen, labels, NOWHERE)
    inspection_plots.plot_weights(seen, 0, labels, NOWHERE)
    inspection_plots.plot_weights_at(seen, 8, labels, NOWHERE)
    titles = [figure.get_suptitle() for figure in drawn]
    assert len(set(titles)) == 5
    assert all(titles)
    filters, time_scales, spectra, weights, _ = drawn
    for figure in (filters, spectra, weights):
        assert figure.axes[0].get_title() == "layer 0, head 0, FFTNet (causal)"
    assert time_scales.axes[0].get_title() == "layer 0, FFTNet (causal)"
    for axis in (filters.axes[0].xaxis, time_scales.axes[0].xaxis, time_scales.axes[0].yaxis):
        assert [label for label in tick_labels(axis) if "$" in label or "e" in label] == []
