"""The evaluation loop: averages and counts of an objective over batches."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from fftnet.protocols import Batches, CountingObjective, Mean, Objective, RowStates, StatefulObjective

MAX_EXPONENT = 700.0
"""Largest exponent for which ``exp`` stays finite in float64, rounded down."""


@dataclass(frozen=True)
class Metrics:
    """Averages over all counted targets."""

    loss: float
    """Mean loss of a target."""
    count: float
    """Number of counted targets."""
    values: dict[str, float | None]
    """Metrics of the objective by name; None for a metric without a counted target."""
    counts: Tensor | None = None
    """Sum of the objective's counts, float64 on the CPU; None if it has none."""

    def named(self) -> dict[str, float | None]:
        """Return the loss and the metrics in one dictionary."""
        return {"loss": self.loss, **self.values}


def average(total: float, weight: float, exponential: bool = False) -> float | None:
    """Return a metric from its sums, see ``fftnet.protocols.Mean``; None if its weight is 0."""
    if not weight:
        return None
    mean = total / weight
    return math.exp(min(mean, MAX_EXPONENT)) if exponential else mean


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch off training mode, and with it dropout; afterwards each module has its earlier mode again."""
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
    all_reduce: Callable[..., Sequence[float]] | None = None,
) -> Metrics:
    """Average an objective over epoch 0, in evaluation mode, which ends afterwards.

    Batches with ``fresh`` need a ``StatefulObjective``, which carries the state of rows from batch to batch.
    ``all_reduce`` adds numbers up over the processes that share the batches.
    """
    # Batches are made on the CPU, wherever the model is.
    device = next(model.parameters()).device
    sums: list[float] = []
    counts: Tensor | None = None
    metrics: Mapping[str, Mean] = {}
    state: RowStates | None = None
    with evaluation_mode(model):
        for index in range(min(batches.num_batches, max_batches or batches.num_batches)):
            batch = batches.batch(0, index).to(device)
            if batch.fresh is not None and isinstance(objective, StatefulObjective):
                losses, state = objective.carry(model, batch, None if batch.fresh else state)
            else:
                losses = objective(model, batch)
            metrics = losses.metrics
            numbers = [losses.loss, losses.count]
            for mean in metrics.values():
                numbers += [mean.total, mean.weight]
            # Sums are kept in float64: float32 would lose small losses after many batches.
            sums = [so_far + float(one) for so_far, one in zip(sums or repeat(0.0), numbers, strict=False)]
            if losses.counts is not None:
                counts = losses.counts.cpu().double() + (0.0 if counts is None else counts)
    if not sums:
        raise ValueError("there is no batch to evaluate")
    # One call for all numbers: every call waits for the slowest process.
    if all_reduce is not None:
        further = [] if counts is None else counts.flatten().tolist()
        reduced = list(all_reduce(*sums, *further))
        sums, further = reduced[: len(sums)], reduced[len(sums) :]
        counts = None if counts is None else torch.tensor(further, dtype=torch.float64).view(counts.shape)
    loss, count, *rest = sums
    values = {
        name: average(rest[2 * number], rest[2 * number + 1], mean.exponential)
        for number, (name, mean) in enumerate(metrics.items())
    }
    if counts is not None and isinstance(objective, CountingObjective):
        values |= objective.summary(counts)
    return Metrics(average(loss, count) or 0.0, count, values, counts)
