"""Numbers on a classifier, from how many rows of each class were taken for which."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.metrics.averages import evaluation_mode
from fftnet.protocols import Batches


def macro_f1(counts: Tensor) -> float | None:
    """The mean of F1 over the classes that occur, as a label or as an answer; each class counts alike.

    Args:
        counts: (3, K): rows of each class that were found, rows taken for it, rows that are of it.

    Returns:
        In [0, 1]; None where there is no row.
    """
    hits, predicted, actual = counts.double()
    occurs = predicted + actual > 0
    if not bool(occurs.any()):
        return None
    # F1 = 2 PR / (P + R), of precision P = hits / predicted and recall R = hits / actual.
    return float((2 * hits / (predicted + actual))[occurs].mean())


def confusion_matrix(actual: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """How many rows of class i (first index) were taken for class j: int64 (K, K).

    Args:
        actual: int64 labels (N,).
        predicted: int64 labels (N,).
        num_classes: K.
    """
    return torch.bincount(actual * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1)


def class_report(confusion: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1 and the numbers of each class.

    Args:
        confusion: int64 (K, K), see ``confusion_matrix``.
        class_names: K names.

    Returns:
        JSON-able: ``accuracy``, ``macro_f1``, under ``classes`` by name precision, recall, F1 (None where
        nothing was taken for the class, or nothing is of it) and support, the rows that are of it; and
        ``confusion_matrix``, rows of lists, with ``class_names`` in order.
    """
    hits = confusion.diagonal().double()
    predicted = confusion.sum(dim=0).double()
    actual = confusion.sum(dim=1).double()
    classes = {
        name: {
            "precision": _ratio(hits[k], predicted[k]),
            "recall": _ratio(hits[k], actual[k]),
            "f1": _ratio(2 * hits[k], predicted[k] + actual[k]),
            "support": int(actual[k]),
        }
        for k, name in enumerate(class_names)
    }
    return {
        "accuracy": _ratio(hits.sum(), actual.sum()),
        "macro_f1": macro_f1(torch.stack((hits, predicted, actual))),
        "classes": classes,
        "class_names": list(class_names),
        "confusion_matrix": confusion.tolist(),
    }


@torch.no_grad()
def evaluate_classes(model: nn.Module, batches: Batches, class_names: Sequence[str]) -> dict[str, Any]:
    """Measure a classifier on epoch 0 of labelled batches, in evaluation mode.

    Args:
        model: maps inputs, with their attention mask where there is one, to logits (B, K).
        batches: their targets are int64 labels (B,).
        class_names: K names.

    Returns:
        ``rows``, ``loss`` (the mean cross-entropy in nats, without smoothing or weights), and what
        ``class_report`` says.
    """
    device = next(model.parameters()).device
    confusion = torch.zeros(len(class_names), len(class_names), dtype=torch.int64)
    loss = 0.0
    with evaluation_mode(model):
        for index in range(batches.num_batches):
            batch = batches.batch(0, index).to(device)
            masked = () if batch.attention_mask is None else (batch.attention_mask,)
            logits_BK = model(batch.inputs, *masked)[batch.loss_mask].float()
            targets_B = batch.targets[batch.loss_mask]
            loss += float(F.cross_entropy(logits_BK, targets_B, reduction="sum"))
            answers_B = logits_BK.argmax(dim=1)
            confusion += confusion_matrix(targets_B.cpu(), answers_B.cpu(), len(class_names))
    rows = int(confusion.sum())
    return {"rows": rows, "loss": loss / max(rows, 1), **class_report(confusion, class_names)}


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if whole else None
