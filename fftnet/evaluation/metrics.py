"""Averages of an objective over data: loss, perplexity, accuracy, bits per byte, loss at position 0."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fftnet.protocols import Batches, Objective


@dataclass(frozen=True)
class Metrics:
    """Averages over all counted tokens."""

    loss: float
    """Nats per token."""
    perplexity: float
    accuracy: float
    bits_per_byte: float | None
    """Comparable across tokenizers; None where the bytes of a token are not known."""
    first_position_loss: float | None
    """Nats at position 0; far below the others, the model sees its target. None where never counted."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    *,
    token_bytes: Sequence[int] | None = None,
    max_batches: int | None = None,
    total: Callable[..., Sequence[float]] = lambda *values: values,
) -> Metrics:
    """Average an objective over (the first ``max_batches`` of) epoch 0, in evaluation mode.

    Args:
        model: its mode is put back afterwards.
        objective: losses of a batch.
        batches: the data.
        token_bytes: bytes that each id stands for, for bits per byte.
        max_batches: None takes all.
        total: adds numbers up over the processes that share the batches, if there are several.
    """
    device = next(model.parameters()).device
    size = torch.tensor(token_bytes or [0], device=device)
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        for index in range(min(batches.num_batches, max_batches or batches.num_batches)):
            losses = objective(model, batches.batch(0, index).to(device))
            first = losses.counted_BT[:, 0]
            known = losses.targets_BT.clamp(min=0, max=len(size) - 1)
            parts = (
                losses.loss_BT.double().sum(),
                losses.counted_BT.sum(),
                losses.correct_BT.sum(),
                (size[known] * losses.counted_BT).sum(),
                (losses.loss_BT[:, 0].double() * first).sum(),
                first.sum(),
            )
            sums += torch.stack([part.double() for part in parts])
    finally:
        model.train(training)
    return metrics_of(*total(*sums.tolist()))


def metrics_of(
    nats: float, count: float, correct: float, bytes_: float, first_nats: float, firsts: float
) -> Metrics:
    """Averages of sums over tokens: nats, tokens, correct ones, bytes; nats and tokens at position 0."""
    count = max(count, 1)
    return Metrics(
        loss=nats / count,
        perplexity=math.exp(min(nats / count, 700)),
        accuracy=correct / count,
        bits_per_byte=nats / math.log(2) / bytes_ if bytes_ else None,
        first_position_loss=first_nats / firsts if firsts else None,
    )
