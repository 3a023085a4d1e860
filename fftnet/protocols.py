"""Contracts between data, models, objectives and training; everything may import this, it imports nothing."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Rows that are trained on or measured together; the first dimension of every tensor counts rows."""

    inputs: Tensor
    """Input of the model: int64 ids (B, T), floats (B, T, C), images (B, C, height, width)."""
    targets: Tensor
    """Answers to learn: int64 ids (B, T), labels (B,), several labels (B, K), floats of any shape."""
    loss_mask: Tensor
    """Boolean, the targets that count; its shape is that of the leading dimensions of ``targets``."""
    attention_mask: Tensor | None = None
    """Boolean (B, T), False at padding of the inputs; None where there is no padding."""
    fresh: bool | None = None
    """Where rows go on from one batch to the next: whether all of them begin anew in this one, or go on where
    those of the batch before ended. None: no batch has to do with another."""

    @property
    def num_rows(self) -> int:
        """Rows B."""
        return self.inputs.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        mask = self.attention_mask
        return self._replace(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            loss_mask=self.loss_mask.to(device),
            attention_mask=None if mask is None else mask.to(device),
        )


class Mean(NamedTuple):
    """A named metric of a batch, in a form that can be added up over batches and processes."""

    total: Tensor
    """0-d, the sum over the counted items."""
    weight: Tensor
    """0-d, what the sum is divided by in the end; 0 leaves the metric out."""
    exponential: bool = False
    """Report ``exp(total / weight)``, as perplexity is of a loss in nats."""


class Losses(NamedTuple):
    """Result of an objective on a batch; training and evaluation know nothing else of it."""

    loss: Tensor
    """0-d and differentiable: the losses of all counted targets, summed."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """0-d, the number of counted targets."""
    metrics: Mapping[str, Mean]
    """Name to metric, detached; the same names for every batch."""
    counts: Tensor | None = None
    """Further sums, detached, of one shape for every batch, for what is no mean, such as F1; added up in
    float64. The objective is a ``CountingObjective`` then."""


Objective = Callable[[nn.Module, Batch], Losses]
"""Maps a model and a batch to its losses."""


@runtime_checkable
class CountingObjective(Protocol):
    """An objective whose batches give counts, which are added up over batches and processes."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses with counts."""
        ...

    def summary(self, counts: Tensor) -> Mapping[str, float | None]:
        """Metrics from the sum of all counts, float64 on the CPU; None where one is not known."""
        ...


RowStates = Mapping[str, Tensor]
"""What the rows of a batch leave for the next one: named tensors, detached, whose first dimension counts
rows."""


@runtime_checkable
class StatefulObjective(Protocol):
    """An objective that can also read rows which go on from one batch to the next."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses of rows that begin and end with the batch."""
        ...

    def carry(self, model: nn.Module, batch: Batch, state: RowStates | None) -> tuple[Losses, RowStates]:
        """Losses of rows that go on from ``state`` (None: begin anew), and what they leave in their turn.

        ``state`` is left as it is, and no gradient flows into it.
        """
        ...


class Batches(Protocol):
    """A seekable stream of batches, all of them with ``fresh`` or none; rows that go on stay as many."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        ...

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch ``index`` of an epoch; the same for the same arguments, always."""
        ...


class TextEncoder(Protocol):
    """The part of a tokenizer that data need."""

    @property
    def name(self) -> str:
        """Name of the tokenizer, in messages and file names."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that cut every text alike, and only for them."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def eot(self) -> int:
        """Id that ends a document, and which no text holds."""
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """uint32 ids of a text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts."""
        ...
