"""Training: it learns, it is exact, it resumes bit by bit, it stops when it must and loses nothing."""

import errno
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fftnet import FFTNet, FFTNetConfig, checkpoint
from fftnet.checkpoint import CheckpointError
from fftnet.optim import OptimConfig, make_optimizer
from fftnet.tasks import TASKS
from fftnet.tasks.evaluation import evaluate
from fftnet.tasks.objective import TokenLosses, token_losses
from fftnet.utils.trainer import TrainConfig, Trainer, TrainingError, pick_device

VOCAB = 8


class Chain:
    """Rows of a noisy cycle 0, 1, ..., 7, 0: the next token is certain in 9 of 10 cases."""

    def __init__(self, batches: int = 4, seed: int = 0, noise: float = 0.1) -> None:
        self.num_batches, self.seed, self.noise = batches, seed, noise

    def batch(self, epoch: int, index: int) -> Tensor:
        rng = np.random.default_rng((self.seed, epoch, index))
        jumps = np.where(rng.random((8, 17)) < self.noise, rng.integers(0, VOCAB, (8, 17)), 1)
        return torch.from_numpy(np.cumsum(jumps, axis=1) % VOCAB)


class Noise:
    """Independent, uniform tokens: nothing can be learned from the past."""

    num_batches = 8

    def batch(self, epoch: int, index: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((epoch, index)).integers(0, VOCAB, (8, 33)))


def bigram() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(VOCAB, 16), nn.Dropout(0.1), nn.Linear(16, VOCAB))


def objective(model: nn.Module, rows: Tensor) -> TokenLosses:
    return token_losses(model(rows[:, :-1].clamp(min=0)), rows[:, 1:], rows[:, 1:] >= 0)


def make(folder: Path, model: nn.Module | None = None, **fields: Any) -> Trainer:
    optim = OptimConfig(learning_rate=fields.pop("learning_rate", 0.03))
    config = TrainConfig(output_dir=str(folder), progress=False, device="cpu", **fields)
    return Trainer(
        model or bigram(),
        fields.pop("objective", objective),
        Chain(),
        Chain(seed=1),
        train_config=config,
        optim_config=optim,
        token_bytes=[1] * VOCAB,
        fingerprint={"model": "bigram"},
    )


def test_it_learns_a_chain_and_reports(tmp_path: Path) -> None:
    trainer = make(tmp_path, num_epochs=25)
    history = trainer.train()
    surprise = -(0.9125 * math.log(0.9125) + 7 * 0.0125 * math.log(0.0125))
    assert history[0]["loss"] > 1.5
    assert history[-1]["loss"] == pytest.approx(surprise, abs=0.15)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["final"] == history[-1]
    assert report["tokens"] == 25 * 4 * 8 * 16
    assert (tmp_path / "loss_plot.png").read_bytes().startswith(b"\x89PNG")
    for name in ("best", "last"):
        bigram().load_state_dict(checkpoint.read_tensors(tmp_path / name / "model.safetensors"))


def test_two_runs_with_one_seed_are_equal(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, num_epochs=3).train() for name in "ab")
    timeless = [[{**row, "tokens_per_second": 0} for row in history] for history in (first, second)]
    assert timeless[0] == timeless[1]


def interrupted(folder: Path, **fields: Any) -> tuple[Trainer, Trainer]:
    """A trainer that ran through, and one that stops after 6 of 12 steps."""
    whole = make(folder / "whole", max_steps=12, eval_every=3, **fields)
    whole.train()
    part = make(folder / "part", max_steps=12, eval_every=3, **fields)
    update = part._update

    def stop() -> tuple[float, int, float]:
        if part.step == 7:
            raise KeyboardInterrupt
        return update()

    part._update = stop
    with pytest.raises(KeyboardInterrupt):
        part.train()
    return whole, part


def resumed(folder: Path) -> Trainer:
    trainer = make(folder / "part", max_steps=12, eval_every=3, resume=True)
    torch.manual_seed(99)
    trainer.train()
    return trainer


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_resume_is_exact(tmp_path: Path) -> None:
    whole, _ = interrupted(tmp_path)
    again = resumed(tmp_path)
    assert torch.equal(weights(again), weights(whole))
    losses = [[row["loss"] for row in trainer.history] for trainer in (again, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dropped", ["rng", "optimizer.0.exp_avg"])
def test_resume_needs_everything_that_is_stored(tmp_path: Path, dropped: str) -> None:
    whole, _ = interrupted(tmp_path)
    state = tmp_path / "part" / "last" / "training.safetensors"
    tensors = checkpoint.read_tensors(state)
    tensors[dropped] = torch.Generator().manual_seed(5).get_state() if dropped == "rng" else -tensors[dropped]
    checkpoint.write_tensors(state, tensors)
    assert not torch.equal(weights(resumed(tmp_path)), weights(whole))


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume: .*last is not there"):
        make(tmp_path, resume=True).train()
    make(tmp_path, max_steps=4).train()
    with pytest.raises(TrainingError, match=r"was trained with other settings \(total_steps\)"):
        make(tmp_path, max_steps=5, resume=True).train()
    other = make(tmp_path, max_steps=4, resume=True)
    other.fingerprint = {"model": "trigram"}
    with pytest.raises(TrainingError, match=r"was trained with other settings \(fingerprint\)"):
        other.train()


def test_a_loss_that_is_not_finite_stops_with_a_sentence_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=12, eval_every=3)
    update = trainer._update

    def poison() -> tuple[float, int, float]:
        if trainer.step == 7:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(math.nan)
        return update()

    trainer._update = poison
    with pytest.raises(
        TrainingError, match=r"not finite at step 7 \(epoch 1, batch 3\); the last good .*last"
    ):
        trainer.train()
    kept = checkpoint.read_tensors(tmp_path / "last" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert checkpoint.read_json(tmp_path / "last" / "training.json")["step"] == 6


def test_without_save_model_no_checkpoint_is_written(tmp_path: Path) -> None:
    make(tmp_path, max_steps=2, save_model=False).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_plot.png", "metrics.json"]


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, max_steps=4).train()
    before = (tmp_path / "last" / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"the disk is full.*the previous one is kept"):
        make(tmp_path, max_steps=6).train()
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= {"best", "last"}
    assert not list(tmp_path.glob("*.tmp"))


def test_only_matrices_decay() -> None:
    model = FFTNet(FFTNetConfig(vocab_size=5, d_model=8, num_heads=2, num_layers=1))
    groups = make_optimizer(model, OptimConfig()).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in groups)
    assert groups[0]["weight_decay"] == 0.1
    assert groups[1]["weight_decay"] == 0.0
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {name.rsplit(".", 1)[1] for name in kept} >= {
        "log_decay_HF",
        "frequency_HF",
        "base_filter_HK",
        "bias_HK",
        "mixing_HF2",
        "taps_CW",
        "bias",
    }
    assert len(decayed) + len(kept) == len(names)


def test_the_schedule_rises_and_falls() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.2)
    rates = [config.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2, abs=1e-3)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_metrics_match_numpy() -> None:
    model, rows = bigram(), Chain().batch(0, 0)
    rows[2, 5:] = -1

    class One:
        num_batches = 1

        def batch(self, epoch: int, index: int) -> Tensor:
            return rows

    metrics = evaluate(model.train(), objective, One(), token_bytes=[1, 2, 3, 4, 5, 6, 7, 0])
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
    values = {"vocab_size": VOCAB, "d_model": 16, "num_heads": 4, "num_layers": 2, "max_seq_length": 32}
    return FFTNet(FFTNetConfig(**(values | fields)))


def run(model: FFTNet, task: str, train: Any, folder: Path, steps: int) -> dict[str, Any]:
    trainer = Trainer(
        model,
        TASKS[task](model),
        train,
        train,
        train_config=TrainConfig(output_dir=str(folder), max_steps=steps, progress=False, save_model=False),
        optim_config=OptimConfig(learning_rate=1e-2),
    )
    return trainer.train()[-1]


def test_fftnet_ends_under_the_unigram_entropy_of_a_chain(tmp_path: Path) -> None:
    final = run(tiny(), "next_token", Chain(), tmp_path, 60)
    assert final["loss"] < 0.5 * math.log(VOCAB)


def test_fftnet_does_not_end_under_the_entropy_of_noise(tmp_path: Path) -> None:
    class Endless(Noise):
        num_batches = 1000

    final = run(tiny(), "next_token", Endless(), tmp_path, 60)
    assert final["loss"] > math.log(VOCAB) - 0.02


def test_a_bidirectional_model_learns_masked_tokens(tmp_path: Path) -> None:
    model = tiny(vocab_size=VOCAB + 1, causal=False, max_seq_length=17)
    final = run(model, "masked_token", Chain(batches=50, noise=0.0), tmp_path, 150)
    assert final["loss"] < 0.8 * math.log(VOCAB)


def test_next_token_training_of_a_bidirectional_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs causal=True: .* copies it .* masked_token instead"):
        TASKS["next_token"](tiny(causal=False))


def test_an_unknown_device_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(TrainingError, match="device 'warp' can't be used here: choose cpu or auto"):
        pick_device("warp")


@pytest.mark.parametrize("config", [TrainConfig, OptimConfig])
def test_settings_are_values(config: type) -> None:
    assert config() == replace(config(), **asdict(config()))


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (TrainConfig, "num_epochs", 0),
        (TrainConfig, "max_steps", -1),
        (OptimConfig, "learning_rate", 0.0),
        (OptimConfig, "beta1", 1.5),
        (OptimConfig, "gradient_clip", 0.0),
    ],
)
def test_bad_settings_name_the_field(config: type, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        config(**{field: value})
