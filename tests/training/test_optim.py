"""The optimizer, its schedules, the moving average of the weights, and the length of a run."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CAUSAL
from runs import (
    Chain,
    assert_equal_runs,
    bigram,
    flat,
    interrupted,
    language_model,
    losses,
    make,
    next_token,
    resumed,
    train_until,
    weights,
)
from torch import nn

from fftnet import serialization
from fftnet.metrics.averages import evaluate
from fftnet.model.mixers import MIXERS
from fftnet.serialization import read_json
from fftnet.training.config import Budget, BudgetConfig, Counters
from fftnet.training.optim import EMA, OptimConfig, make_optimizer
from fftnet.utils.trainer import Trainer


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_matrices_of_linear_layers_and_embeddings_decay(mixer: str) -> None:
    model = language_model(mixers=(mixer,), causal=mixer in CAUSAL)
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
    whole = interrupted(tmp_path, ema_decay=0.9)
    again = resumed(tmp_path, ema_decay=0.9)
    assert_equal_runs(again, whole)
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


STALLED: dict[str, Any] = {
    # A learning rate that is too small to change a weight in float32.
    "learning_rate": 1e-30,
    "early_stopping": 2,
    "eval_every": 3,
    "eval_batches": 1,
    "max_steps": 1000,
}


def steps(trainer: Trainer) -> list[int]:
    return [row["step"] for row in trainer.state.history]


def test_a_budget_ends_at_the_first_limit() -> None:
    budget = Budget(BudgetConfig(max_steps=10, max_tokens=1000, max_minutes=2.0), batches=4)
    assert budget.progress(Counters(5, 100, 12.0)) == pytest.approx(0.5)
    assert budget.progress(Counters(5, 800, 12.0)) == pytest.approx(0.8)
    assert budget.progress(Counters(5, 100, 119.0)) == pytest.approx(119 / 120)
    assert budget.steps(targets=300, seconds=1.0) == 4
    assert budget.steps(targets=1, seconds=60.0) == 2
    assert Budget(BudgetConfig(num_epochs=3), batches=4).steps(1, 1.0) == 12


def test_tokens_end_a_run(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_tokens=8 * 16 * 5 - 1, eval_every=2, min_lr_ratio=0.0)
    history = trainer.train()
    assert steps(trainer) == [2, 4, 5]
    assert trainer.state.counters.targets == 8 * 16 * 5
    assert history[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-9)


def test_minutes_end_a_run_and_those_before_a_resume_count(tmp_path: Path) -> None:
    trainer = make(tmp_path / "part", max_minutes=0.01, eval_every=10**6)
    assert len(trainer.train()) == 1
    assert 0.6 <= trainer.state.counters.seconds < 5
    again = resumed(tmp_path, max_steps=None, max_minutes=0.01, eval_every=10**6)
    assert again.step == trainer.step


def test_a_loss_that_does_not_fall_ends_the_run_with_a_whole_evaluation(tmp_path: Path) -> None:
    trainer = make(tmp_path, **STALLED)
    trainer.train()
    assert steps(trainer) == [3, 6, 9]
    first, second, last = (row["loss"] for row in trainer.state.history)
    model = trainer.distributed.raw_model
    assert first == second == pytest.approx(evaluate(model, next_token, Chain(seed=1), max_batches=1).loss)
    assert last == pytest.approx(evaluate(model, next_token, Chain(seed=1)).loss)
    assert last != first
    report = read_json(tmp_path / "metrics.json")
    assert report["final"]["step"] == 9
    assert report["best"]["step"] == (9 if last < first else 3)
    assert (tmp_path / "last").resolve().name == "step-00000009"


@pytest.mark.parametrize("values", [{"learning_rate": 0.03}, {"early_stopping": None}])
def test_a_falling_loss_or_no_early_stopping_uses_the_whole_budget(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    trainer = make(tmp_path, **{**STALLED, "max_steps": 12, **values})
    trainer.train()
    assert steps(trainer) == [3, 6, 9, 12]


def test_early_stopping_ends_at_the_same_step_after_a_resume(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", **STALLED)
    whole.train()
    train_until(make(tmp_path / "part", **STALLED), 7)
    # The second of these finds the run finished.
    for _ in range(2):
        again = make(tmp_path / "part", **STALLED, resume="auto")
        again.train()
        assert steps(again) == steps(whole)
        assert losses(again) == losses(whole)
    patient = make(tmp_path / "part", **{**STALLED, "early_stopping": 3, "resume": "auto"})
    patient.train()
    assert steps(patient) == [3, 6, 9, 12]
