"""A run ends at the first of its limits."""

from pathlib import Path

import pytest
from runs import (
    make,
    resumed,
)

from fftnet.training.budget import Budget, BudgetConfig, Counters


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
    assert [row["step"] for row in history] == [2, 4, 5]
    assert trainer.state.counters.targets == 8 * 16 * 5
    assert history[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-9)


def test_minutes_end_a_run_and_those_before_a_resume_count(tmp_path: Path) -> None:
    trainer = make(tmp_path / "part", max_minutes=0.01, eval_every=10**6)
    history = trainer.train()
    assert len(history) == 1
    assert 0.6 <= trainer.state.counters.seconds < 5
    again = resumed(tmp_path, max_steps=None, max_minutes=0.01, eval_every=10**6)
    assert again.step == trainer.step
