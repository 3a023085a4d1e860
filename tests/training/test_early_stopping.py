"""A run ends when its validation loss falls no more: at the same step however often it was interrupted."""

import math
from pathlib import Path
from typing import Any

import pytest
from runs import Chain, at_step, losses, make, next_token, stop

from fftnet.metrics.averages import evaluate
from fftnet.serialization import read_json
from fftnet.utils.trainer import Trainer

FROZEN: dict[str, Any] = {
    # A learning rate that is too small to change a weight of 32 bits.
    "learning_rate": 1e-30,
    "early_stopping": 2,
    "eval_every": 3,
    "eval_batches": 1,
    "max_steps": 1000,
}


def steps(trainer: Trainer) -> list[int]:
    return [row["step"] for row in trainer.state.history]


def test_a_loss_that_does_not_fall_ends_the_run_with_a_whole_evaluation(tmp_path: Path) -> None:
    trainer = make(tmp_path, **FROZEN)
    trainer.train()
    assert steps(trainer) == [3, 6, 9]
    first, second, last = (row["loss"] for row in trainer.state.history)
    model = trainer.distributed.raw_model
    assert first == second == pytest.approx(evaluate(model, next_token, Chain(seed=1), max_batches=1).loss)
    assert last == pytest.approx(evaluate(model, next_token, Chain(seed=1)).loss)
    assert last != first
    report = read_json(tmp_path / "metrics.json")
    assert report["final"]["step"] == 9
    assert len(report["history"]) == 3
    # Whichever is lower, as ever.
    assert report["best"]["step"] == (9 if last < first else 3)
    assert (tmp_path / "last").resolve().name == "step-00000009"


def test_a_loss_that_falls_is_waited_for_to_the_end(tmp_path: Path) -> None:
    trainer = make(tmp_path, **{**FROZEN, "learning_rate": 0.03, "max_steps": 12})
    trainer.train()
    assert steps(trainer) == [3, 6, 9, 12]


def test_it_ends_at_the_same_step_when_resumed(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", **FROZEN)
    whole.train()
    part = make(tmp_path / "part", **FROZEN)
    at_step(part, 7, stop)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    again = make(tmp_path / "part", **FROZEN, resume="auto")
    again.train()
    assert steps(again) == steps(whole)
    assert losses(again) == losses(whole)
    # It is over; with more patience it goes on, by as many evaluations as are lacking.
    over = make(tmp_path / "part", **FROZEN, resume="auto")
    over.train()
    assert steps(over) == steps(whole)
    patient = make(tmp_path / "part", **{**FROZEN, "early_stopping": 3}, resume="auto")
    patient.train()
    assert steps(patient) == [3, 6, 9, 12]


def test_without_it_nothing_ends_early(tmp_path: Path) -> None:
    trainer = make(tmp_path, **{**FROZEN, "early_stopping": None, "max_steps": 18})
    trainer.train()
    assert steps(trainer)[-1] == 18
    assert math.isfinite(trainer.state.history[-1]["loss"])
    with pytest.raises(ValueError, match="early_stopping must be above 0"):
        make(tmp_path, early_stopping=0)
