"""Length of a run: its limits, and early stopping, also when the run was interrupted."""

from pathlib import Path
from typing import Any

import pytest
from runs import Chain, at_step, losses, make, next_token, resumed, stop

from fftnet.metrics.averages import evaluate
from fftnet.serialization import read_json
from fftnet.training.config import Budget, BudgetConfig, Counters
from fftnet.utils.trainer import Trainer

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
    part = make(tmp_path / "part", **STALLED)
    at_step(part, 7, stop)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    # The second of these finds the run finished.
    for _ in range(2):
        again = make(tmp_path / "part", **STALLED, resume="auto")
        again.train()
        assert steps(again) == steps(whole)
        assert losses(again) == losses(whole)
    patient = make(tmp_path / "part", **{**STALLED, "early_stopping": 3, "resume": "auto"})
    patient.train()
    assert steps(patient) == [3, 6, 9, 12]
