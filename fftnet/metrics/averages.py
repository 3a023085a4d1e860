"""Averages of an objective over data: its loss and the metrics that it names."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from fftnet.protocols import Batches, CountingObjective, Mean, Objective

MAX_EXPONENT = 700.0
"""Of a float64, about; a larger one would overflow."""


@dataclass(frozen=True)
class Metrics:
    """Averages over all counted targets."""

    loss: float
    """Mean loss of a target."""
    count: float
    """Targets that counted."""
    values: dict[str, float | None]
    """The metrics that the objective names or sums up; None where nothing was counted for one."""

    def named(self) -> dict[str, float | None]:
        """The loss and the metrics in one dictionary."""
        return {"loss": self.loss, **self.values}


def average(total: float, weight: float, exponential: bool = False) -> float | None:
    """A metric from its sums, see ``fftnet.protocols.Mean``; None where its weight is 0."""
    if not weight:
        return None
    mean = total / weight
    return math.exp(min(mean, MAX_EXPONENT)) if exponential else mean


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Turn training mode, and with it dropout, off; afterwards each module has its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def evaluate(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    *,
    max_batches: int | None = None,
    all_reduce: Callable[..., Sequence[float]] = lambda *values: values,
) -> Metrics:
    """Average an objective over (the first ``max_batches`` of) epoch 0, in evaluation mode.

    Args:
        model: its mode is put back afterwards.
        objective: losses of a batch.
        batches: the data.
        max_batches: None takes all.
        all_reduce: adds numbers up over the processes that share the batches, if there are several.

    Raises:
        ValueError: if there is no batch.
    """
    device = next(model.parameters()).device
    sums: list[float] = []
    counts: Tensor | None = None
    metrics: Mapping[str, Mean] = {}
    with evaluation_mode(model):
        for index in range(min(batches.num_batches, max_batches or batches.num_batches)):
            losses = objective(model, batches.batch(0, index).to(device))
            metrics = losses.metrics
            numbers = [losses.loss, losses.count]
            for mean in metrics.values():
                numbers += [mean.total, mean.weight]
            sums = [so_far + float(one) for so_far, one in zip(sums or repeat(0.0), numbers, strict=False)]
            if losses.counts is not None:
                counts = losses.counts.cpu().double() + (0.0 if counts is None else counts)
    if not sums:
        raise ValueError("there is no batch to evaluate")
    further = [] if counts is None else counts.flatten().tolist()
    reduced = list(all_reduce(*sums, *further))
    loss, count, *rest = reduced[: len(sums)]
    values = {
        name: average(rest[2 * number], rest[2 * number + 1], mean.exponential)
        for number, (name, mean) in enumerate(metrics.items())
    }
    if counts is not None and isinstance(objective, CountingObjective):
        total = torch.tensor(reduced[len(sums) :], dtype=torch.float64).view(counts.shape)
        values |= objective.summary(total)
    return Metrics(average(loss, count) or 0.0, count, values)
