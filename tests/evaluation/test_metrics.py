"""Averages over data against NumPy."""

import math

import numpy as np
import pytest
import torch
from runs import Chain, bigram, text

from fftnet.metrics.averages import evaluate
from fftnet.protocols import Batch
from fftnet.tasks.next_token import NextToken


def test_metrics_match_numpy() -> None:
    model = bigram()
    rows = Chain().rows(0, 0)
    rows[2, 5:] = -1

    class One:
        num_batches = 1

        def batch(self, epoch: int, index: int) -> Batch:
            return text(rows)

    metrics = evaluate(model.train(), NextToken([1, 2, 3, 4, 5, 6, 7, 0]), One())
    assert model.training
    with torch.no_grad():
        log_p = model.eval()(rows[:, :-1].clamp(min=0)).log_softmax(-1).numpy()
    targets = rows[:, 1:].numpy()
    losses = [-log_p[b, t, targets[b, t]] for b in range(8) for t in range(16) if targets[b, t] >= 0]
    hits = [log_p[b, t].argmax() == targets[b, t] for b in range(8) for t in range(16) if targets[b, t] >= 0]
    size = sum([1, 2, 3, 4, 5, 6, 7, 0][token] for token in targets[targets >= 0])
    assert metrics.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics.values["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert metrics.values["accuracy"] == pytest.approx(np.mean(hits))
    assert metrics.values["bits_per_byte"] == pytest.approx(np.sum(losses) / math.log(2) / size, rel=1e-5)
    first = [-log_p[b, 0, targets[b, 0]] for b in range(8)]
    assert metrics.values["first_position_loss"] == pytest.approx(np.mean(first), rel=1e-5)
