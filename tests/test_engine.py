"""The engine: shared batches, budgets, averages, skipped updates, logs and forecasts."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import (
    VOCAB,
    Chain,
    Poisoned,
    at_step,
    bigram,
    configs,
    flat,
    losses,
    make,
    next_token,
    resumed,
    stop,
    weights,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet import FFTNet, FFTNetConfig, serialization
from fftnet.tasks import TASKS
from fftnet.training.accelerator import TrainingError
from fftnet.training.budget import Budget, BudgetConfig, Spent
from fftnet.training.distributed import share
from fftnet.training.dry_run import parts
from fftnet.training.ema import WeightAverage
from fftnet.utils.trainer import Trainer


@given(
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_every_row_is_shared_out_once(rows: int, length: int, world: int, parts: int, random: Any) -> None:
    batch = torch.tensor([[random.randrange(9) for _ in range(length)] for _ in range(rows)])
    shares = [share(batch, rank, world, parts) for rank in range(world)]
    assert {len(pieces) for pieces in shares} == {parts}
    assert len({piece.shape for pieces in shares for piece in pieces}) == 1
    together = torch.cat([piece for pieces in shares for piece in pieces])
    assert torch.equal(together[:rows], batch)
    assert (together[rows:] == -1).all()


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_gradients_are_those_of_the_mean_over_all_tokens(tmp_path: Path, parts: int) -> None:
    """The pieces hold unequal numbers of tokens, so that a mean of means would be another value."""
    rows = Chain().batch(0, 0)
    rows[0, 3:] = -1
    rows[5, 9:] = -1
    trainer = make(tmp_path, accumulation_steps=parts)
    engine = trainer.engine
    engine.raw.double().eval()
    nats, tokens, extra = engine.accumulate(next_token, rows, 7.0)
    direct = bigram().double().eval()
    targets = rows[:, 1:].flatten()
    loss = F.cross_entropy(
        direct(rows[:, :-1].clamp(min=0)).flatten(0, 1), targets.clamp(min=0), reduction="none"
    )
    mean = loss[targets >= 0].mean()
    mean.backward()
    assert (tokens, extra) == (float((targets >= 0).sum()), 7.0)
    assert nats / tokens == pytest.approx(mean.item(), rel=1e-6)
    for found, wanted in zip(engine.raw.parameters(), direct.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-7)


def test_rows_of_nothing_change_nothing_for_any_mixer(tmp_path: Path) -> None:
    for causal, task in ((True, "next_token"), (False, "masked_token")):
        torch.manual_seed(0)
        config = FFTNetConfig(vocab_size=VOCAB + 1, d_model=8, num_heads=2, num_layers=1, causal=causal)
        model = FFTNet(config)
        objective = TASKS[task](model)
        trainer = Trainer(model, objective, Chain(), Chain(), **configs(tmp_path, accumulation_steps=3))
        trainer.engine.raw.eval()
        nats, tokens = trainer.engine.accumulate(objective, Chain().batch(0, 0)[:4])
        assert math.isfinite(nats)
        assert tokens > 0
        assert math.isfinite(trainer.engine.gradient_norm())


def test_a_budget_ends_at_the_first_limit() -> None:
    budget = Budget(BudgetConfig(max_steps=10, max_tokens=1000, max_minutes=2.0), batches=4)
    assert budget.done(Spent(5, 100, 12.0)) == pytest.approx(0.5)
    assert budget.done(Spent(5, 800, 12.0)) == pytest.approx(0.8)
    assert budget.done(Spent(5, 100, 119.0)) == pytest.approx(119 / 120)
    assert budget.steps(tokens=300, seconds=1.0) == 4
    assert budget.steps(tokens=1, seconds=60.0) == 2
    assert Budget(BudgetConfig(num_epochs=3), batches=4).steps(1, 1.0) == 12


def test_tokens_end_a_run(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_tokens=8 * 16 * 5 - 1, eval_every=2, final_fraction=0.0)
    history = trainer.train()
    assert [row["step"] for row in history] == [2, 4, 5]
    assert trainer.progress.spent.tokens == 8 * 16 * 5
    assert history[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-9)


def test_minutes_end_a_run_and_those_before_a_resume_count(tmp_path: Path) -> None:
    trainer = make(tmp_path / "part", max_minutes=0.01, eval_every=10**6)
    history = trainer.train()
    assert len(history) == 1
    assert 0.6 <= trainer.progress.spent.seconds < 5
    again = resumed(tmp_path, max_steps=None, max_minutes=0.01, eval_every=10**6)
    assert again.step == trainer.step


def test_the_average_is_the_weighted_sum_of_all_weights() -> None:
    model = nn.Linear(3, 2).double()
    average = WeightAverage(model, 0.7)
    seen, decays = [flat(model)], []
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
    with average.in_place():
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
    assert again.average is not None
    with again.average.in_place():
        assert torch.equal(flat(stored), weights(again))
    plain = make(tmp_path / "plain", max_steps=12, eval_every=3)
    plain.train()
    assert torch.equal(weights(plain), weights(whole))
    assert losses(plain) != losses(whole)


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [
        (
            math.nan,
            "the loss or its gradient is not finite at step 2 (epoch 0, batch 2): the update is skipped",
        ),
        (
            math.inf,
            "the loss or its gradient is not finite at step 2 (epoch 0, batch 2): the update is skipped",
        ),
        (4.0, "the loss jumped from 2.23 to 8.91 at step 2 (epoch 0, batch 2)"),
    ],
)
def test_a_bad_batch_is_skipped_and_counted(
    tmp_path: Path, factor: float, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = make(tmp_path, objective=Poisoned({2: factor}), max_steps=4, eval_every=4, learning_rate=1e-3)
    before: list[Tensor] = []
    for step in (2, 3):
        at_step(trainer, step, lambda: before.append(weights(trainer)))
    history = trainer.train()
    assert history[-1]["skipped"] == 1
    assert torch.equal(*before)
    assert not torch.equal(before[1], weights(trainer))
    assert sentence in capfd.readouterr().err


def test_a_higher_limit_lets_a_spike_pass(tmp_path: Path) -> None:
    history = make(tmp_path, objective=Poisoned({2: 4.0}), max_steps=4, eval_every=4, spike=20.0).train()
    assert history[-1]["skipped"] == 0


def test_too_many_skipped_updates_in_a_row_end_the_run(tmp_path: Path) -> None:
    bad = Poisoned({0: math.nan, 2: math.nan, 3: math.nan})
    trainer = make(tmp_path, objective=bad, max_steps=8, eval_every=2, max_skipped=2)
    with pytest.raises(
        TrainingError,
        match=r"not finite at step 3 \(epoch 0, batch 3\), 2 times in a row; the last .*-00000002; try",
    ):
        trainer.train()
    assert trainer.progress.skipped == 3
    kept = serialization.read_tensors(tmp_path / "last" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_broken_weights_never_reach_a_checkpoint(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=8, eval_every=2, save_every=1, max_skipped=5)

    def poison() -> None:
        with torch.no_grad():
            next(trainer.engine.raw.parameters()).fill_(math.nan)

    at_step(trainer, 3, poison)
    with pytest.raises(
        TrainingError, match=r"validation loss is not finite at step 4; the last good .*-00000003"
    ):
        trainer.train()


def test_tensorboard_gets_every_number_and_the_text(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=6, eval_every=3, log_every=2, trackers=["tensorboard"])
    object.__setattr__(trainer.extras, "sample", lambda weights: f"written with {len(weights)} tensors")
    history = trainer.train()
    assert history[-1]["sample"] == "written with 3 tensors"
    events = EventAccumulator(str(tmp_path / "logs" / "fftnet")).Reload()
    scalars = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert scalars["step/train_loss"] == [2, 4, 6]
    for name in (
        "loss",
        "learning_rate",
        "gradient_norm",
        "tokens_per_second",
        "utilisation",
        "memory_bytes",
    ):
        assert scalars[f"evaluation/{name}"] == [3, 6]
    assert [event.value for event in events.Scalars("evaluation/loss")] == pytest.approx(
        [row["loss"] for row in history]
    )
    assert any("sample" in name for name in events.Tags()["tensors"])


def test_a_run_says_first_what_it_is_about_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = make(tmp_path, max_steps=10, progress=True)
    trainer.train()
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert lines[0] == "264 parameters (0 128; 2 136)"
    assert lines[1].startswith(
        "10 steps of up to 128 tokens, 1,280 in all: 2.5 epochs of 4 batches; 4 to validate"
    )
    assert "tokens/s" in lines[2]
    assert "GB of memory" in lines[2]
    assert trainer.forecast.flops == 3 * 2 * 16 * VOCAB * 128
    assert trainer.forecast.peak > 1e9
    assert 1e8 < trainer.forecast.memory < 1e11


def test_a_batch_too_small_for_its_pieces_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, max_steps=1, progress=True, accumulation_steps=9).train()
    assert "batches of 8 rows leave some of 9 pieces empty: raise batch_size" in capfd.readouterr().err


def test_parameters_are_told_by_part() -> None:
    model = FFTNet(FFTNetConfig(vocab_size=9, d_model=8, num_heads=2, num_layers=3))
    text = parts(model)
    assert text.startswith(f"{model.num_parameters():,} parameters (embedding 72; 3 layers of ")
    inner = [int(word.split()[-1].replace(",", "")) for word in text.split(": ")[1].split(";")[0].split(", ")]
    assert 3 * sum(inner) + 72 + 8 == model.num_parameters()


def test_the_trial_leaves_no_trace(tmp_path: Path) -> None:
    first = make(tmp_path / "a", max_steps=4, eval_every=4)
    start = weights(first).clone()
    at_step(first, 0, lambda: torch.testing.assert_close(weights(first), start, rtol=0, atol=0))
    first.train()
    torch.manual_seed(99)
    np.random.seed(5)
    second = make(tmp_path / "b", max_steps=4, eval_every=4)
    torch.rand(7)
    second.train()
    assert torch.equal(weights(first), weights(second))


def test_metrics_and_progress_are_json(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=4, eval_every=2)
    trainer.train()
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["processes"] == 1
    assert report["history"] == trainer.progress.history
    assert (
        type(trainer.progress).from_json(json.loads(json.dumps(asdict(trainer.progress)))) == trainer.progress
    )
