"""The moving average of the weights: its value, and where it is used."""

import math
from pathlib import Path

import pytest
import torch
from runs import (
    at_step,
    bigram,
    flat,
    losses,
    make,
    resumed,
    stop,
    weights,
)
from torch import nn

from fftnet import serialization
from fftnet.training.ema import EMA


def test_the_average_is_the_weighted_sum_of_all_weights() -> None:
    model = nn.Linear(3, 2).double()
    average = EMA(model, 0.7)
    seen = [flat(model)]
    decays = []
    for n in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        seen.append(flat(model))
        decays.append(min(0.7, (1 + n) / (10 + n)))
    wanted = torch.zeros_like(seen[0])
    for n, values in enumerate(seen):
        own = 1.0 if n == 0 else 1 - decays[n - 1]
        wanted += values * own * math.prod(decays[n:])
    with average.swapped():
        torch.testing.assert_close(flat(model), wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(flat(model), seen[-1])


def test_the_average_is_evaluated_written_and_resumed(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", max_steps=12, eval_every=3, ema_decay=0.9)
    whole.train()
    part = make(tmp_path / "part", max_steps=12, eval_every=3, ema_decay=0.9)
    at_step(part, 7, stop)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    again = resumed(tmp_path, ema_decay=0.9)
    assert torch.equal(weights(again), weights(whole))
    assert losses(again) == losses(whole)
    stored = bigram()
    serialization.load_weights(stored, tmp_path / "part" / "last" / "model.safetensors")
    assert not torch.equal(flat(stored), weights(again))
    assert again.ema is not None
    with again.ema.swapped():
        assert torch.equal(flat(stored), weights(again))
    plain = make(tmp_path / "plain", max_steps=12, eval_every=3)
    plain.train()
    assert torch.equal(weights(plain), weights(whole))
    assert losses(plain) != losses(whole)
