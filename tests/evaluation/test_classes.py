"""Numbers on classifiers against matrices that were worked out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fftnet.metrics.averages import evaluate
from fftnet.metrics.classes import class_report, evaluate_classes, macro_f1
from fftnet.protocols import Batch
from fftnet.tasks.labels import LabelObjective, balanced_weights

NAMES = ("a", "b", "c", "d")
ACTUAL = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
ANSWERS = [0, 0, 0, 1, 3, 1, 1, 0, 0, 1]
"""Class c is never answered, class d never meant."""


class Answers(nn.Module):
    """Says with certainty what it was told to, and nothing about other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return nn.functional.one_hot(inputs, len(NAMES)).float() * 2 * self.weight


class Rows:
    """Ten rows in batches of four; two more in the last one, which do not count."""

    num_batches = 3

    def batch(self, epoch: int, index: int) -> Batch:
        answers = torch.tensor([*ANSWERS, 2, 2])[4 * index : 4 * index + 4]
        actual = torch.tensor([*ACTUAL, 2, 2])[4 * index : 4 * index + 4]
        return Batch(answers, actual, torch.arange(4 * index, 4 * index + 4) < 10)


def test_every_number_is_the_one_worked_out_by_hand() -> None:
    report = evaluate_classes(Answers(), Rows(), NAMES)
    assert report["confusion_matrix"] == [[3, 1, 0, 1], [1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    expected: dict[str, dict[str, Any]] = {
        "a": {"precision": 3 / 5, "recall": 3 / 5, "f1": 3 / 5, "support": 5},
        "b": {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3},
        "c": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 2},
        "d": {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0},
    }
    for name, numbers in expected.items():
        assert report["classes"][name] == pytest.approx(numbers), name
    assert report["accuracy"] == pytest.approx(5 / 10)
    assert report["macro_f1"] == pytest.approx((3 / 5 + 4 / 7) / 4)


def test_a_class_that_neither_is_nor_is_answered_does_not_count() -> None:
    counts = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    assert macro_f1(counts) == 1.0
    assert macro_f1(torch.zeros(3, 2)) is None
    assert class_report(torch.zeros(2, 2, dtype=torch.int64), ("a", "b"))["accuracy"] is None


def test_the_objective_and_the_report_count_the_same_over_batches() -> None:
    model = Answers().train()
    report = evaluate_classes(model, Rows(), NAMES)
    metrics = evaluate(model, LabelObjective(4, unit="texts"), Rows())
    assert model.training
    assert report["rows"] == metrics.count == 10
    assert metrics.values == pytest.approx({"accuracy": 0.5, "macro_f1": (3 / 5 + 4 / 7) / 4})
    # Of four logits one is 2 and three are 0; half of the rows are right.
    right, wrong = (-torch.tensor([logit, 0.0, 0.0, 2.0 - logit]).log_softmax(0)[0] for logit in (2.0, 0.0))
    assert report["loss"] == pytest.approx(float(right + wrong) / 2, rel=1e-6)
    assert metrics.loss == pytest.approx(report["loss"], rel=1e-6)


def test_counts_are_added_up_over_processes() -> None:
    """Two processes with the same rows: twice the counts, the same means."""

    def twice(*values: float) -> list[float]:
        return [2 * value for value in values]

    alone = evaluate(Answers(), LabelObjective(4, unit="texts"), Rows())
    both = evaluate(Answers(), LabelObjective(4, unit="texts"), Rows(), all_reduce=twice)
    assert both.count == 20
    assert both.values == pytest.approx(alone.values)


def test_smoothing_weights_and_mixed_targets_against_sums_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]])

    class Fixed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return logits

    labels = torch.tensor([0, 2, 2])
    mask = torch.tensor([True, True, False])
    weights = [0.5, 1.0, 2.0]
    log_p = logits.log_softmax(-1)
    # Smoothing puts e / K on each class; a weight belongs to the class that a part of the target is of.
    target = nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    by_hand = -(target * log_p * torch.tensor(weights)).sum(dim=1)[:2].sum()
    objective = LabelObjective(3, unit="texts", label_smoothing=0.3, class_weights=weights)
    losses = objective(Fixed(), Batch(labels, labels, mask))
    assert float(losses.loss) == pytest.approx(float(by_hand), rel=1e-6)
    assert losses.counts is not None
    assert losses.counts.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    mixed = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.2, 0.8], [0.0, 0.0, 1.0]])
    plain = LabelObjective(3, unit="images")(Fixed(), Batch(labels, mixed, mask))
    assert float(plain.loss) == pytest.approx(float(-(mixed * log_p).sum(dim=1)[:2].sum()), rel=1e-6)
    assert plain.counts is not None
    assert plain.counts.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_balanced_weights_let_all_classes_weigh_alike() -> None:
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    weights = balanced_weights(labels, 3)
    assert weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert sum(weights[label] for label in labels) == pytest.approx(10)
