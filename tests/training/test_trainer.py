"""The trainer: it learns, reports, resumes with the same bits, skips harmful updates, and names mistakes."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from runs import (
    VOCAB,
    Chain,
    Poisoned,
    assert_equal_runs,
    at_step,
    bigram,
    configs,
    flat,
    interrupted,
    make,
    next_token,
    resumed,
    saved_step,
    weights,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from fftnet import serialization
from fftnet.metrics.averages import Metrics
from fftnet.serialization import CheckpointError
from fftnet.training.accelerator import AcceleratorConfig, TrainingError
from fftnet.training.checkpointer import SaveConfig
from fftnet.training.config import BudgetConfig, Counters, TrainConfig
from fftnet.training.optim import OptimConfig
from fftnet.training.state import TrainingState
from fftnet.utils import trainer as trainer_module
from fftnet.utils.trainer import Trainer


def test_a_run_learns_a_chain_and_writes_its_results(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_epochs=20, eval_every=10)
    history = trainer.train()
    surprise = -(0.9125 * math.log(0.9125) + 7 * 0.0125 * math.log(0.0125))
    assert history[0]["loss"] > history[-1]["loss"]
    assert history[-1]["loss"] == pytest.approx(surprise, abs=0.15)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["final"] == history[-1]
    assert report["history"] == history
    assert report["best"]["loss"] == min(row["loss"] for row in history)
    assert report["tokens"] == 20 * 4 * 8 * 16
    assert report["parameters"] == VOCAB * 16 + 16 * VOCAB + VOCAB
    assert report["entropy_floor"] == 0.5
    assert [row["step"] for row in history] == list(range(10, 81, 10))
    picture = imread(tmp_path / "loss_plot.png")
    assert picture.ndim == 3
    assert picture.std() > 0.01


def test_the_plot_gets_every_logged_loss_of_a_run_that_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plotted: list[Any] = []
    monkeypatch.setattr("fftnet.training.report.plot_losses", lambda *given: plotted.append(given[-1]))
    whole = interrupted(tmp_path, log_every=2)
    assert [step for step, _ in whole.state.logged] == [2, 4, 6, 8, 10, 12]
    assert len({loss for _, loss in whole.state.logged}) == 6
    assert resumed(tmp_path, log_every=2).state.logged == whole.state.logged
    assert plotted[-1] == whole.state.logged


def test_a_long_run_keeps_evenly_spread_losses() -> None:
    state = TrainingState()
    for step in range(1, 30_001):
        state.counters = Counters(step)
        if step % 5 == 0:
            state.log_loss(1 / step, log_every=5)
    steps = [step for step, _ in state.logged]
    # Every eighth of the 6,000 logged steps, from the first to the last.
    assert steps == list(range(40, 30_001, 40))
    assert state.logged[-1] == [30_000, 1 / 30_000]


def test_best_and_last_are_whole(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=12, eval_every=4)
    worse = iter([2.0, 1.0, 3.0])
    at: dict[int, Tensor] = {}
    real = trainer_module.evaluate

    def scripted(*arguments: Any, **named: Any) -> Metrics:
        at[trainer.step] = weights(trainer)
        return replace(real(*arguments, **named), loss=next(worse))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "evaluate", scripted)
        trainer.train()
    files = {"config.json", "model.safetensors", "training.safetensors", "training.json", "manifest.json"}
    for name, step in (("best", 8), ("last", 12)):
        assert {path.name for path in (tmp_path / name).iterdir()} == files
        model = bigram()
        serialization.load_weights(model, tmp_path / name / "model.safetensors")
        assert torch.equal(flat(model), at[step])


def test_an_interrupt_saves_the_step_and_resume_is_exact(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = make(tmp_path / "whole", max_steps=12, eval_every=20)
    whole.train()
    # An older run in the folder, whose links last and best the interrupted one replaces.
    make(tmp_path / "part", max_steps=4, eval_every=4, learning_rate=0.01).train()
    part = make(tmp_path / "part", max_steps=12, eval_every=20, overwrite=True)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    at_step(part, 7, lambda: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            part.train()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert "stopped after step 8: --resume continues from" in capfd.readouterr().err
    assert saved_step(tmp_path / "part" / "last") == saved_step(tmp_path / "part" / "best") == 8
    again = resumed(tmp_path)
    assert_equal_runs(again, whole)


def test_two_runs_with_one_seed_are_equal(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, max_steps=6, eval_every=3).train() for name in "ab")
    clocks = dict.fromkeys(("tokens_per_second", "seconds", "memory_bytes"), 0)
    timeless = [[row | clocks for row in history] for history in (first, second)]
    assert timeless[0] == timeless[1]
    other = make(tmp_path / "c", max_steps=6, eval_every=3, seed=1).train()
    assert other[0]["train_loss"] != first[0]["train_loss"]


def test_an_output_that_cannot_be_written_is_named_before_a_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = make(tmp_path / "file", max_steps=1)
    with pytest.raises(CheckpointError, match=r"file could not be written.*choose another --output_dir"):
        trainer.train()
    assert trainer.step == 0


def test_data_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="need at least one batch each: use more data"):
        Trainer(bigram(), next_token, Chain(), Chain(batches=0), **configs(tmp_path))


@pytest.mark.parametrize(("steps", "interval"), [(4, 1), (12, 3), (40, 4), (1200, 40)])
def test_a_run_is_evaluated_often_enough_and_not_too_often(tmp_path: Path, steps: int, interval: int) -> None:
    assert make(tmp_path)._default_interval(steps) == interval


def test_without_save_model_no_checkpoint_is_written(tmp_path: Path) -> None:
    make(tmp_path, max_steps=2, save_model=False).train()
    assert {path.name for path in tmp_path.iterdir()} == {".fftnet.lock", "loss_plot.png", "metrics.json"}


def test_tensorboard_gets_every_number_and_the_text(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=6, eval_every=3, log_every=2, trackers=["tensorboard"])
    object.__setattr__(trainer.callbacks, "sample", lambda weights: f"written with {len(weights)} tensors")
    history = trainer.train()
    assert history[-1]["sample"] == "written with 3 tensors"
    events = EventAccumulator(str(tmp_path / "logs" / "fftnet")).Reload()
    scalars = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert scalars["step/train_loss"] == [2, 4, 6]
    for name in ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_bytes"):
        assert scalars[f"evaluation/{name}"] == [3, 6]
    assert [event.value for event in events.Scalars("evaluation/loss")] == pytest.approx(
        [row["loss"] for row in history]
    )
    assert any("sample" in name for name in events.Tags()["tensors"])


def test_bad_settings_name_the_field() -> None:
    bad: dict[type, dict[str, float]] = {
        TrainConfig: {"max_skipped": 0},
        BudgetConfig: {"num_epochs": 0, "max_steps": -1, "max_minutes": 0.0},
        AcceleratorConfig: {"accumulation_steps": 0},
        SaveConfig: {"keep_last": 0},
        OptimConfig: {"ema_decay": 1.0, "learning_rate": 0.0, "beta1": 1.5},
    }
    for config, values in bad.items():
        for field, value in values.items():
            with pytest.raises(ValueError, match=field):
                config(**{field: value})


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [
        (math.nan, "loss or its gradient is not finite at step 2 (epoch 0, batch 2): the update is skipped"),
        (math.inf, "loss or its gradient is not finite at step 2 (epoch 0, batch 2): the update is skipped"),
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
    message = r"not finite at step 3 \(epoch 0, batch 3\), 2 times in a row; the last .*-00000002; try"
    with pytest.raises(TrainingError, match=message):
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
    with pytest.raises(TrainingError, match=r"loss is not finite at step 4; the last good .*-00000003"):
        trainer.train()
