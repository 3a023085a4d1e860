"""The optimizer, its schedules, and the moving average of the weights."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from models import CAUSAL
from runs import at_step, bigram, flat, losses, make, resumed, stop, weights
from torch import nn

from fftnet import FFTNet, FFTNetConfig, serialization
from fftnet.model.mixers import MIXERS
from fftnet.training.optim import EMA, OptimConfig, make_optimizer


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_matrices_of_linear_layers_and_embeddings_decay(mixer: str) -> None:
    model = FFTNet(
        FFTNetConfig(
            vocab_size=5, d_model=8, num_heads=2, num_layers=2, mixers=(mixer,), causal=mixer in CAUSAL
        )
    )
    groups = make_optimizer(model, OptimConfig()).param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = name.rsplit(".", 1)[1] == "weight" and parameter.ndim > 1
        assert (id(parameter) in decaying) == expected, name


def test_a_name_alone_makes_no_parameter_decay() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_weight = nn.Parameter(torch.ones(8, 4))
            self.projection = nn.Linear(8, 8)
            self.tied = self.projection
            self.norm = nn.LayerNorm([8, 8])

    model = Mixer()
    decayed, kept = make_optimizer(model, OptimConfig()).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.projection.weight)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(kept["params"]) == 4
    model.projection.weight.requires_grad_(False)
    (kept,) = make_optimizer(model, OptimConfig()).param_groups
    assert len(kept["params"]) == 4


def test_the_cosine_schedule_rises_and_falls() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_fraction=0.1, min_lr_ratio=0.2)
    rates = [config.lr_at(step / 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates[54] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_the_stable_schedule_falls_at_the_end_only() -> None:
    config = OptimConfig(
        learning_rate=1.0, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2, min_lr_ratio=0
    )
    rates = [config.lr_at(step / 100) for step in range(1, 101)]
    assert rates[4] == pytest.approx(0.5)
    assert rates[9:80] == pytest.approx([1.0] * 71)
    assert rates[80:] == pytest.approx([n / 20 for n in range(19, -1, -1)])


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
