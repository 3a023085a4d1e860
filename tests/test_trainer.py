"""Training: it learns, it is exact, it resumes bit by bit, it stops when it must and loses nothing."""

import json
import math
import signal
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from runs import (
    VOCAB,
    Chain,
    at_step,
    bigram,
    configs,
    flat,
    losses,
    make,
    next_token,
    resumed,
    saved_step,
    stop,
    weights,
)
from torch import Tensor

from fftnet import FFTNet, FFTNetConfig, serialization
from fftnet.evaluation.metrics import Metrics, evaluate
from fftnet.protocols import Batches
from fftnet.serialization import CheckpointError
from fftnet.tasks import TASKS
from fftnet.training.accelerator import EngineConfig, TrainingError, pick_device
from fftnet.training.budget import BudgetConfig
from fftnet.training.checkpoints import SaveConfig
from fftnet.training.optim import OptimConfig, make_optimizer
from fftnet.utils import trainer as trainer_module
from fftnet.utils.trainer import TrainConfig, Trainer


class Noise:
    """Independent, uniform tokens: nothing can be learned from the past."""

    def __init__(self, batches: int, seed: int) -> None:
        self.num_batches, self.seed = batches, seed

    def batch(self, epoch: int, index: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((self.seed, epoch, index)).integers(0, VOCAB, (8, 33)))


def test_it_learns_a_chain_and_reports(tmp_path: Path) -> None:
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
    assert report["floor"] == 0.5
    assert [row["step"] for row in history] == list(range(10, 81, 10))
    picture = imread(tmp_path / "loss_plot.png")
    assert picture.ndim == 3
    assert picture.std() > 0.01


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
    whole = make(tmp_path / "whole", max_steps=12, eval_every=3)
    whole.train()
    part = make(tmp_path / "part", max_steps=12, eval_every=3)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    at_step(part, 7, lambda: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            part.train()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert "stopped after step 8: resume goes on from" in capfd.readouterr().err
    assert saved_step(tmp_path / "part" / "last") == 8
    again = resumed(tmp_path)
    assert torch.equal(weights(again), weights(whole))
    assert losses(again) == losses(whole)


def test_an_interrupt_before_the_first_evaluation_leaves_no_best_of_an_older_run(tmp_path: Path) -> None:
    make(tmp_path, max_steps=4, eval_every=4).train()
    trainer = make(tmp_path, max_steps=4, eval_every=4, learning_rate=0.01)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    at_step(trainer, 0, lambda: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, usual)
    for name in ("best", "last"):
        model = bigram()
        serialization.load_weights(model, tmp_path / name / "model.safetensors")
        assert torch.equal(flat(model), weights(trainer))


def test_two_runs_with_one_seed_are_equal(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, max_steps=6, eval_every=3).train() for name in "ab")
    clocks = dict.fromkeys(("tokens_per_second", "seconds", "utilisation", "memory_bytes"), 0)
    timeless = [[row | clocks for row in history] for history in (first, second)]
    assert timeless[0] == timeless[1]
    other = make(tmp_path / "c", max_steps=6, eval_every=3, seed=1).train()
    assert other[0]["train_loss"] != first[0]["train_loss"]


def interrupted(folder: Path, **fields: Any) -> tuple[Trainer, Trainer]:
    """A trainer that ran through, and one that stops after 6 of 12 steps."""
    whole = make(folder / "whole", max_steps=12, eval_every=3, **fields)
    whole.train()
    part = make(folder / "part", max_steps=12, eval_every=3, **fields)
    at_step(part, 7, stop)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    return whole, part


def test_resume_is_exact(tmp_path: Path) -> None:
    whole, _ = interrupted(tmp_path)
    again = resumed(tmp_path)
    assert torch.equal(weights(again), weights(whole))
    assert losses(again) == losses(whole)


def test_an_output_that_cannot_be_written_is_named_before_a_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = make(tmp_path / "file", max_steps=1)
    with pytest.raises(CheckpointError, match=r"file could not be written.*choose another --output_dir"):
        trainer.train()
    assert trainer.step == 0


def test_data_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="need a batch each: use more data"):
        Trainer(bigram(), next_token, Chain(), Chain(batches=0), **configs(tmp_path))


@pytest.mark.parametrize(("steps", "interval"), [(4, 1), (12, 3), (40, 4), (1200, 40)])
def test_a_run_is_evaluated_often_enough_and_not_too_often(tmp_path: Path, steps: int, interval: int) -> None:
    assert make(tmp_path)._default_interval(steps) == interval


def test_progress_goes_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = make(tmp_path, max_steps=2, save_model=False)
    trainer.config = replace(trainer.config, progress=True)
    trainer.train()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "tokens/s" in shown.err
    assert "step 2: train" in shown.err


def test_without_save_model_no_checkpoint_is_written(tmp_path: Path) -> None:
    make(tmp_path, max_steps=2, save_model=False).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_plot.png", "metrics.json"]


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
        "readout",
        "conv_weight",
        "bias",
    }
    assert len(decayed) + len(kept) == len(names)


def test_the_schedule_rises_and_falls() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.2)
    rates = [config.rate(step / 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates[54] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_the_stable_schedule_falls_at_the_end_only() -> None:
    config = OptimConfig(
        learning_rate=1.0, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2, final_fraction=0
    )
    rates = [config.rate(step / 100) for step in range(1, 101)]
    assert rates[4] == pytest.approx(0.5)
    assert rates[9:80] == pytest.approx([1.0] * 71)
    assert rates[80:] == pytest.approx([n / 20 for n in range(19, -1, -1)])


def test_metrics_match_numpy() -> None:
    model, rows = bigram(), Chain().batch(0, 0)
    rows[2, 5:] = -1

    class One:
        num_batches = 1

        def batch(self, epoch: int, index: int) -> Tensor:
            return rows

    metrics = evaluate(model.train(), next_token, One(), token_bytes=[1, 2, 3, 4, 5, 6, 7, 0])
    assert model.training
    with torch.no_grad():
        log_p = model.eval()(rows[:, :-1].clamp(min=0)).log_softmax(-1).numpy()
    targets = rows[:, 1:].numpy()
    losses = [-log_p[b, t, targets[b, t]] for b in range(8) for t in range(16) if targets[b, t] >= 0]
    hits = [log_p[b, t].argmax() == targets[b, t] for b in range(8) for t in range(16) if targets[b, t] >= 0]
    size = sum([1, 2, 3, 4, 5, 6, 7, 0][token] for token in targets[targets >= 0])
    assert metrics.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert metrics.accuracy == pytest.approx(np.mean(hits))
    assert metrics.bits_per_byte == pytest.approx(np.sum(losses) / math.log(2) / size, rel=1e-5)
    first = [-log_p[b, 0, targets[b, 0]] for b in range(8)]
    assert metrics.first_position_loss == pytest.approx(np.mean(first), rel=1e-5)


def tiny(**fields: Any) -> FFTNet:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "d_model": 16,
        "num_heads": 4,
        "num_layers": 2,
        "max_seq_length": 32,
    }
    return FFTNet(FFTNetConfig(**(values | fields)))


def run(model: FFTNet, task: str, train: Batches, valid: Batches, folder: Path, steps: int) -> dict[str, Any]:
    settings = configs(folder, max_steps=steps, eval_every=steps, save_model=False, learning_rate=1e-2)
    trainer = Trainer(model, TASKS[task](model), train, valid, **settings)
    return trainer.train()[-1]


def test_fftnet_ends_under_the_unigram_entropy_of_a_chain(tmp_path: Path) -> None:
    final = run(tiny(), "next_token", Chain(), Chain(seed=1), tmp_path, 60)
    assert final["loss"] < 0.5 * math.log(VOCAB)


def test_fftnet_does_not_end_under_the_entropy_of_noise(tmp_path: Path) -> None:
    final = run(tiny(), "next_token", Noise(1000, seed=0), Noise(4, seed=1), tmp_path, 60)
    assert final["loss"] > math.log(VOCAB) - 0.02


def test_a_bidirectional_model_learns_masked_tokens(tmp_path: Path) -> None:
    model = tiny(vocab_size=VOCAB + 1, causal=False, max_seq_length=17)
    final = run(model, "masked_token", Chain(50, noise=0.0), Chain(2, 1, 0.0), tmp_path, 120)
    assert final["loss"] < 0.8 * math.log(VOCAB)


def test_next_token_training_of_a_bidirectional_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs causal=True: .* copies it .* masked_token instead"):
        TASKS["next_token"](tiny(causal=False))


def test_an_unknown_device_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(TrainingError, match="device 'warp' can't be used here: choose cpu or auto"):
        pick_device("warp")


@pytest.mark.parametrize("config", [TrainConfig, BudgetConfig, OptimConfig, EngineConfig, SaveConfig])
def test_settings_are_values(config: type) -> None:
    assert config() == replace(config(), **asdict(config()))


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (TrainConfig, "max_skipped", 0),
        (TrainConfig, "spike", math.nan),
        (BudgetConfig, "num_epochs", 0),
        (BudgetConfig, "max_steps", -1),
        (BudgetConfig, "max_minutes", 0.0),
        (EngineConfig, "accumulation_steps", 0),
        (SaveConfig, "keep_last", 0),
        (OptimConfig, "ema_decay", 1.0),
        (OptimConfig, "learning_rate", 0.0),
        (OptimConfig, "beta1", 1.5),
        (OptimConfig, "gradient_clip", 0.0),
    ],
)
def test_bad_settings_name_the_field(config: type, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        config(**{field: value})
