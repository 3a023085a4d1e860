"""Interfaces between data, models, objectives and training; every package may import this module."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Rows that are trained on or measured together; dimension 0 of every tensor counts rows."""

    inputs: Tensor
    """Input of the model: int64 ids (B, T), floats (B, T, C), images (B, C, height, width)."""
    targets: Tensor
    """Targets: int64 ids (B, T), labels (B,), several labels (B, K), floats of any shape."""
    loss_mask: Tensor
    """Boolean, True at targets that count; its shape is that of the leading dimensions of ``targets``."""
    attention_mask: Tensor | None = None
    """Boolean (B, T), False at padding of the inputs; None: no padding."""
    fresh: bool | None = None
    """True if all rows start new texts, False if they continue those of the batch before (truncated BPTT).
    None: batches are independent."""

    @property
    def num_rows(self) -> int:
        """Number of rows B."""
        return self.inputs.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        # None and booleans stay as they are.
        moved = {name: x.to(device) for name, x in self._asdict().items() if isinstance(x, Tensor)}
        return self._replace(**moved)


class Mean(NamedTuple):
    """Metric of a batch, in a form that can be summed over batches and processes."""

    total: Tensor
    """0-d, sum over the counted items."""
    weight: Tensor
    """0-d, divisor of the sum; with a divisor of 0 the metric is left out."""
    exponential: bool = False
    """Report ``exp(total / weight)``, for example the perplexity of a loss in nats."""


class Losses(NamedTuple):
    """Result of an objective on a batch, all that training and evaluation use."""

    loss: Tensor
    """0-d and differentiable, sum of the losses of all counted targets."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """0-d, number of counted targets."""
    metrics: Mapping[str, Mean]
    """Metrics by name, detached; the same names for every batch."""
    counts: Tensor | None = None
    """Further sums, detached, of the same shape for every batch, for metrics that are not means, such as F1.
    They are added in float64. The objective is then a ``CountingObjective``."""


Objective = Callable[[nn.Module, Batch], Losses]
"""Function of a model and a batch."""


@runtime_checkable
class CountingObjective(Protocol):
    """Objective that returns counts, which are summed over batches and processes."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return losses with counts."""
        ...

    def summary(self, counts: Tensor) -> Mapping[str, float | None]:
        """Return metrics of the sum of all counts, float64 on the CPU; None if a metric is undefined."""
        ...


RowStates = Mapping[str, Tensor]
"""Recurrent state carried from one batch to the next: named tensors, detached; dimension 0 counts rows."""


@runtime_checkable
class StatefulObjective(Protocol):
    """Objective that can also read rows that continue those of the batch before (truncated BPTT)."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return losses of rows that are independent of other batches."""
        ...

    def carry(self, model: nn.Module, batch: Batch, state: RowStates | None) -> tuple[Losses, RowStates]:
        """Return losses of rows that continue from ``state`` (None: new texts), and the new state.

        ``state`` stays unchanged, and no gradient flows into it.
        """
        ...


class Batches(Protocol):
    """Seekable stream of batches: batch i of epoch e is a function of seed, e and i.

    Either all batches have ``fresh`` or none; batches with it all have the same number of rows.
    """

    @property
    def num_batches(self) -> int:
        """Number of batches in an epoch."""
        ...

    def batch(self, epoch: int, index: int) -> Batch:
        """Return batch ``index`` of an epoch, always the same for the same arguments."""
        ...


class TextEncoder(Protocol):
    """Part of a tokenizer that data loading uses."""

    @property
    def name(self) -> str:
        """Name of the tokenizer, in messages and file names."""
        ...

    @property
    def fingerprint(self) -> str:
        """String that is equal exactly for tokenizers that give equal ids."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def eot(self) -> int:
        """Id that ends a document; no text contains it."""
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """Return the ids of a text, uint32."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of several texts."""
        ...
