"""Classification of texts or images: cross-entropy with smoothing and class weights, accuracy, F1."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.metrics.classes import class_logits, macro_f1
from fftnet.protocols import Batch, Losses, Mean

WEIGHTINGS = ("none", "balanced")
"""Weights of the losses of each class: all 1, or such that all classes weigh alike."""


class LabelObjective:
    """Cross-entropy of one class per row, in nats; smoothing and weights apply to evaluation, too."""

    def __init__(
        self,
        num_classes: int,
        *,
        unit: str,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.unit = unit
        self._num_classes = num_classes
        self._label_smoothing = label_smoothing
        self._weights = None if class_weights is None else torch.tensor(class_weights)

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the losses, and as counts (3, K) the hits, predicted and actual rows of each class.

        Targets are int64 labels (B,), or float probabilities (B, K) of mixed rows, whose likeliest class
        counts in the metrics.
        """
        logits_BK = class_logits(model, batch)
        targets = batch.targets
        mask_B = batch.loss_mask
        # The device is known with the first batch only.
        if self._weights is not None:
            self._weights = self._weights.to(logits_BK.device)
        loss_B = F.cross_entropy(
            logits_BK, targets, weight=self._weights, reduction="none", label_smoothing=self._label_smoothing
        )
        loss = loss_B.masked_fill(~mask_B, 0.0).sum()
        actual_B = targets if targets.ndim == 1 else targets.argmax(dim=1)
        # Unlike bincount, this does not make the device wait for the host.
        classes_K = torch.arange(self._num_classes, device=logits_BK.device)
        actual_BK = (actual_B[:, None] == classes_K) & mask_B[:, None]
        predicted_BK = (logits_BK.detach().argmax(dim=1)[:, None] == classes_K) & mask_B[:, None]
        counts = torch.stack([actual_BK & predicted_BK, predicted_BK, actual_BK]).sum(dim=1)
        count = mask_B.sum()
        return Losses(loss, count, {"accuracy": Mean(counts[0].sum(), count)}, counts)

    def summary(self, counts: Tensor) -> Mapping[str, float | None]:
        """Return the mean F1 over classes, see ``fftnet.metrics.classes.macro_f1``."""
        return {"macro_f1": macro_f1(counts)}


def label_objective(settings: Any, labels: Sequence[int], num_classes: int, unit: str) -> LabelObjective:
    """Return the objective for the settings of a task and the labels of all its training rows."""
    weights = balanced_weights(labels, num_classes) if settings.class_weights == "balanced" else None
    smoothing = settings.label_smoothing
    return LabelObjective(num_classes, unit=unit, label_smoothing=smoothing, class_weights=weights)


def check_label_smoothing(value: float) -> None:
    """Raise a ValueError if the field ``label_smoothing`` of a task is out of range."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {value}")


def balanced_weights(labels: Sequence[int], num_classes: int) -> list[float]:
    """Return weights rows / (K * rows of the class) for all training labels, each of K classes among them."""
    # Averaged over rows the weights are 1, so that the learning rate keeps its meaning.
    rows_K = torch.bincount(torch.as_tensor(labels), minlength=num_classes)
    return (len(labels) / (num_classes * rows_K)).tolist()
