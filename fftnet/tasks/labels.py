"""The objective of classification, be it of texts or of images: cross-entropy, accuracy, F1."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.metrics.classes import macro_f1
from fftnet.protocols import Batch, Losses, Mean

WEIGHTINGS = ("none", "balanced")
"""Weights of the losses of each class: all 1, or such that all classes count alike."""


class LabelObjective:
    """One class of each row: cross-entropy in nats, its smoothing and weights in evaluation, too.

    Args:
        num_classes: K.
        unit: name of what is counted, in the plural: texts, images.
        label_smoothing: the part of a target that is spread evenly over all classes.
        class_weights: K factors of the losses of rows of each class; None: 1.

    Raises:
        ValueError: if ``label_smoothing`` is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        unit: str,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        check_label_smoothing(label_smoothing)
        self.unit = unit
        self._num_classes = num_classes
        self._label_smoothing = label_smoothing
        self._weights = None if class_weights is None else torch.tensor(class_weights)

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses of a batch.

        Args:
            model: maps inputs, with their attention mask where there is one, to logits (B, K).
            batch: its targets are int64 labels (B,), or float probabilities (B, K) of mixed rows, of which
                the likeliest class counts in the metrics.

        Returns:
            Losses with the metric accuracy and counts (3, K): rows of each class that were found, rows that
            were taken for it, and rows that are of it.
        """
        masked = () if batch.attention_mask is None else (batch.attention_mask,)
        logits_BK = model(batch.inputs, *masked).float()
        targets = batch.targets
        mask_B = batch.loss_mask
        if self._weights is not None:
            self._weights = self._weights.to(logits_BK.device)
        loss_B = F.cross_entropy(
            logits_BK,
            targets,
            weight=self._weights,
            reduction="none",
            label_smoothing=self._label_smoothing,
        )
        loss = loss_B.masked_fill(~mask_B, 0.0).sum()
        actual_B = targets if targets.ndim == 1 else targets.argmax(dim=1)
        predicted_B = logits_BK.detach().argmax(dim=1)
        hit_B = (predicted_B == actual_B) & mask_B
        hits, predicted, actual = (
            self._per_class(label_B, counted_B)
            for label_B, counted_B in ((actual_B, hit_B), (predicted_B, mask_B), (actual_B, mask_B))
        )
        count = mask_B.sum()
        counts = torch.stack((hits, predicted, actual))
        return Losses(loss, count, {"accuracy": Mean(hit_B.sum(), count)}, counts)

    def summary(self, counts: Tensor) -> Mapping[str, float | None]:
        """The mean F1 over classes, each counting alike; see ``fftnet.metrics.classes.macro_f1``."""
        return {"macro_f1": macro_f1(counts)}

    def _per_class(self, label_B: Tensor, counted_B: Tensor) -> Tensor:
        """Counted rows of each class, int64 (K,)."""
        is_class_BK = label_B[:, None] == torch.arange(self._num_classes, device=label_B.device)
        return (is_class_BK & counted_B[:, None]).sum(dim=0)


def check_weighting(value: str) -> None:
    """Refuse what is no way to weigh classes.

    Raises:
        ValueError: if it is not in ``WEIGHTINGS``.
    """
    if value not in WEIGHTINGS:
        raise ValueError(f"unknown class_weights {value!r}; choose from {', '.join(WEIGHTINGS)}")


def check_label_smoothing(value: float) -> None:
    """Refuse what is no smoothing.

    Raises:
        ValueError: if it is below 0, or 1 and more.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {value}")


def balanced_weights(labels: Sequence[int], num_classes: int) -> list[float]:
    """Weights with which all classes count alike: rows / (classes * rows of a class), over rows 1 on average.

    Args:
        labels: of all rows of training, each class among them.
        num_classes: K.
    """
    rows_K = torch.bincount(torch.as_tensor(labels), minlength=num_classes)
    return (len(labels) / (num_classes * rows_K)).tolist()
