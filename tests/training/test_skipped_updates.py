"""Harmful updates are skipped, counted and reported; weights that are not finite are never saved."""

import math
from pathlib import Path

import pytest
import torch
from runs import (
    Poisoned,
    at_step,
    make,
    weights,
)
from torch import Tensor

from fftnet import serialization
from fftnet.training.accelerator import TrainingError


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
    history = make(tmp_path, objective=Poisoned({2: 4.0}), max_steps=4, eval_every=4, loss_spike=20.0).train()
    assert history[-1]["skipped"] == 0


def test_too_many_skipped_updates_in_a_row_end_the_run(tmp_path: Path) -> None:
    bad = Poisoned({0: math.nan, 2: math.nan, 3: math.nan})
    trainer = make(tmp_path, objective=bad, max_steps=8, eval_every=2, max_skipped=2)
    with pytest.raises(
        TrainingError,
        match=r"not finite at step 3 \(epoch 0, batch 3\), 2 times in a row; the last .*-00000002; try",
    ):
        trainer.train()
    assert trainer.state.skipped == 3
    kept = serialization.read_tensors(tmp_path / "last" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_broken_weights_never_reach_a_checkpoint(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=8, eval_every=2, save_every=1, max_skipped=5)

    def poison() -> None:
        with torch.no_grad():
            next(trainer.distributed.raw_model.parameters()).fill_(math.nan)

    at_step(trainer, 3, poison)
    with pytest.raises(
        TrainingError, match=r"validation loss is not finite at step 4; the last good .*-00000003"
    ):
        trainer.train()
