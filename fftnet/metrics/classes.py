"""Metrics of a classifier: confusion matrix, precision, recall and F1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.metrics.averages import average, evaluate
from fftnet.protocols import Batch, Batches, Losses


def class_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a classifier, float32 (B, K); the attention mask is passed on if present."""
    masked = () if batch.attention_mask is None else (batch.attention_mask,)
    return model(batch.inputs, *masked).float()


def macro_f1(counts: Tensor) -> float | None:
    """Return the mean F1 of classes that occur, from hits, predicted and actual rows (3, K), or None."""
    hits, predicted, actual = counts.double()
    # A class without any row would add an undefined 0 / 0.
    occurs = predicted + actual > 0
    if not bool(occurs.any()):
        return None
    # F1 = 2 PR / (P + R), of precision P = hits / predicted and recall R = hits / actual.
    return float((2 * hits / (predicted + actual))[occurs].mean())


def class_report(confusion: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro F1 and the metrics of each class as JSON values.

    ``confusion`` is (K, K): rows of class i (first index) for which class j was predicted. Precision, recall
    and F1 are None without a predicted or an actual row. ``support`` is the number of actual rows.
    """
    hits = confusion.diagonal().tolist()
    predicted = confusion.sum(dim=0).tolist()
    actual = confusion.sum(dim=1).tolist()
    classes = {
        name: {
            "precision": average(hits[k], predicted[k]),
            "recall": average(hits[k], actual[k]),
            "f1": average(2 * hits[k], predicted[k] + actual[k]),
            "support": int(actual[k]),
        }
        for k, name in enumerate(class_names)
    }
    return {
        "accuracy": average(sum(hits), sum(actual)),
        "macro_f1": macro_f1(torch.tensor([hits, predicted, actual])),
        "classes": classes,
        "class_names": list(class_names),
        "confusion_matrix": confusion.long().tolist(),
    }


def evaluate_classes(model: nn.Module, batches: Batches, class_names: Sequence[str]) -> dict[str, Any]:
    """Return ``rows``, ``loss`` in nats and ``class_report`` of epoch 0, in evaluation mode."""
    size = len(class_names)

    def confusion(model: nn.Module, batch: Batch) -> Losses:
        logits_BK = class_logits(model, batch)[batch.loss_mask]
        actual_B = batch.targets[batch.loss_mask]
        loss = F.cross_entropy(logits_BK, actual_B, reduction="sum")
        # bincount counts pairs of classes, numbered actual * K + predicted.
        pairs_B = actual_B * size + logits_BK.argmax(dim=1)
        counts = torch.bincount(pairs_B, minlength=size**2).view(size, size)
        return Losses(loss, batch.loss_mask.sum(), {}, counts)

    metrics = evaluate(model, confusion, batches)
    assert metrics.counts is not None
    return {"rows": int(metrics.count), "loss": metrics.loss, **class_report(metrics.counts, class_names)}
