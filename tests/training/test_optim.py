"""The optimizer decays what it should; schedules rise and fall."""

from itertools import pairwise

import pytest
import torch
from models import CAUSAL
from torch import nn

from fftnet import FFTNet, FFTNetConfig
from fftnet.model.mixers import MIXERS
from fftnet.training.optim import OptimConfig, make_optimizer


@pytest.mark.parametrize("mixer", MIXERS)
def test_what_decays_is_what_has_always_decayed(mixer: str) -> None:
    """By the older rule: matrices whose name ends in weight."""
    causal = mixer in CAUSAL
    model = FFTNet(
        FFTNetConfig(vocab_size=5, d_model=8, num_heads=2, num_layers=2, mixers=(mixer,), causal=causal)
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
    decayed, kept = (group["params"] for group in make_optimizer(model, OptimConfig()).param_groups)
    assert [id(p) for p in decayed] == [id(model.projection.weight)]
    assert len(kept) == 4
    model.projection.weight.requires_grad_(False)
    [kept] = (group["params"] for group in make_optimizer(model, OptimConfig()).param_groups)
    assert len(kept) == 4


def test_only_matrices_decay() -> None:
    model = FFTNet(FFTNetConfig(vocab_size=5, d_model=8, num_heads=2, num_layers=1))
    groups = make_optimizer(model, OptimConfig()).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in groups)
    assert groups[0]["weight_decay"] == 0.1
    assert groups[1]["weight_decay"] == 0.0
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {name.rsplit(".", 1)[1] for name in kept} >= {
        "log_decay",
        "frequency",
        "base_filter",
        "bias",
        "base_key",
        "conv_weight",
    }
    assert len(decayed) + len(kept) == len(names)


def test_the_schedule_rises_and_falls() -> None:
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
