"""Small training runs for tests: a bigram model on a noisy cycle."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fftnet import FFTNet, FFTNetConfig, serialization
from fftnet.protocols import Batch, Batches, Losses, Objective
from fftnet.serialization import CONFIG_FILE
from fftnet.tasks.next_token import NextToken
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.training.checkpointer import SaveConfig
from fftnet.training.config import BudgetConfig, Callbacks, RunMetadata, TrainConfig
from fftnet.training.optim import OptimConfig
from fftnet.training.signals import StopRequest
from fftnet.utils.trainer import Trainer

VOCAB = 8
next_token = NextToken([1] * VOCAB)


def text(rows: Tensor) -> Batch:
    """Return a batch of int64 rows (B, T + 1), padded with -1."""
    present = rows >= 0
    tokens = rows.clamp(min=0)
    return Batch(tokens[:, :-1], tokens[:, 1:], present[:, 1:], present[:, :-1])


class Chain:
    """Rows of a noisy cycle 0, 1, ..., 7, 0: the next token is certain in 9 of 10 cases."""

    def __init__(self, batches: int = 4, seed: int = 0, noise: float = 0.1) -> None:
        self.num_batches = batches
        self.seed = seed
        self.noise = noise

    def rows(self, epoch: int, index: int) -> Tensor:
        rng = np.random.default_rng((self.seed, epoch, index))
        jumps = np.where(rng.random((8, 17)) < self.noise, rng.integers(0, VOCAB, (8, 17)), 1)
        return torch.from_numpy(np.cumsum(jumps, axis=1) % VOCAB)

    def batch(self, epoch: int, index: int) -> Batch:
        return text(self.rows(epoch, index))


def bigram() -> nn.Module:
    """Return a model whose best loss is known."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(VOCAB, 16), nn.Dropout(0.1), nn.Linear(16, VOCAB))


class Poisoned:
    """An objective that multiplies the loss of some batches of the chain by a factor."""

    def __init__(self, factors: dict[int, float]) -> None:
        self.bad = {Chain().batch(0, n).targets.sum().item(): factor for n, factor in factors.items()}
        self.met = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        losses = next_token(model, batch)
        factor = self.bad.get(batch.targets.sum().item()) if model.training else None
        if factor is None:
            return losses
        self.met += 1
        return losses._replace(loss=losses.loss * factor)


def configs(folder: Path, **values: Any) -> dict[str, Any]:
    """Return the configurations of a quiet run on the CPU from fields of any of them."""
    values = {"output_dir": str(folder), "progress": False, "device": "cpu", "trackers": ["none"]} | values
    kinds = {
        "train_config": TrainConfig,
        "budget_config": BudgetConfig,
        "optim_config": OptimConfig,
        "accelerator_config": AcceleratorConfig,
        "save_config": SaveConfig,
    }
    names = {kind: {field.name for field in fields(kind)} for kind in kinds.values()}
    assert values.keys() <= set().union(*names.values())
    return {
        name: kind(**{key: value for key, value in values.items() if key in names[kind]})
        for name, kind in kinds.items()
    }


def language_model(**sizes: Any) -> FFTNet:
    torch.manual_seed(0)
    values: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 16, "num_heads": 4, "num_layers": 2}
    return FFTNet(FFTNetConfig(**(values | sizes)))


def make(
    folder: Path,
    train: Batches | None = None,
    objective: Objective = next_token,
    model: nn.Module | None = None,
    valid: Batches | None = None,
    **values: Any,
) -> Trainer:
    """Return a trainer, by default of the bigram model on the chain."""
    return Trainer(
        bigram() if model is None else model,
        objective,
        train or Chain(),
        valid or Chain(seed=1),
        **configs(folder, **({"learning_rate": 0.03} | values)),
        metadata=RunMetadata(entropy_floor=0.5, fingerprint={"model": "bigram"}),
        callbacks=Callbacks(
            save_files=lambda folder: serialization.write_json(folder / CONFIG_FILE, {"vocab_size": VOCAB})
        ),
    )


def at_step(trainer: Trainer, step: int, action: Callable[[], object]) -> None:
    """Call a function before the update of a step."""
    update = trainer._update

    def both(stop: StopRequest, bar: tqdm) -> bool:
        if trainer.step == step:
            action()
        return update(stop, bar)

    trainer._update = both


def train_until(trainer: Trainer, step: int) -> None:
    """Train a run that dies before the update of a step."""

    def stop() -> None:
        raise KeyboardInterrupt

    at_step(trainer, step, stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def interrupted(folder: Path, **values: Any) -> Trainer:
    """Return a trainer that finished, after another one died in step 8 of 12."""
    whole = make(folder / "whole", max_steps=12, eval_every=3, **values)
    whole.train()
    train_until(make(folder / "part", max_steps=12, eval_every=3, **values), 7)
    return whole


def resumed(folder: Path, **values: Any) -> Trainer:
    trainer = make(folder / "part", **({"max_steps": 12, "eval_every": 3, "resume": "auto"} | values))
    trainer.train()
    return trainer


def saved_step(folder: Path) -> int:
    return serialization.read_json(folder / "training.json")["state"]["counters"]["steps"]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def weights(trainer: Trainer) -> Tensor:
    return flat(trainer.distributed.raw_model)


def losses(trainer: Trainer) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["loss"]) for row in trainer.state.history]


def assert_equal_runs(trainer: Trainer, other: Trainer) -> None:
    assert torch.equal(weights(trainer), weights(other))
    assert losses(trainer) == losses(other)
