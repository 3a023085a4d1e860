"""The training loop of all experiments: batches by number, a budget of steps or seconds, checkpoints."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.base import DIVERGED, FINISHED, Run, Workbench
from experiments.errors import ExperimentError
from fftnet.training.optim import OptimConfig, make_optimizer

IGNORED = -100
"""A target that is not asked for."""

FP32 = "fp32"
BF16 = "bf16"

Batch = tuple[Tensor, Tensor]
"""Ids int64 (B, T), and what they should be answered with, the same shape, ``IGNORED`` where nothing is."""


class OutOfTime(Exception):
    """The process has used its time; the run is put away and goes on when it is called again."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run trains; the schedule follows the used share. Exactly one of the two is set."""

    steps: int | None = None
    """Optimizer steps."""
    seconds: float | None = None
    """Seconds of training, evaluation not counted."""
    warmup_fraction: float = 0.1
    """Share in which the learning rate rises from 0; a cosine to 0 follows."""
    points: int = 6
    """How often the curve is measured, the end included."""

    def used(self, steps: int, seconds: float) -> float:
        """The share that is used."""
        if self.steps is not None:
            return steps / self.steps
        return seconds / (self.seconds or 1.0)


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    outcome: str
    """Finished, or diverged."""
    curve: list[dict[str, Any]]
    """Rows with step, tokens, seconds, loss and what ``measure`` found."""
    steps: int
    seconds: float


class Checkpoint:
    """The file of an unfinished run.

    Args:
        run: whose it is.
        workbench: where it lies, and when the process ends.
        every: seconds between two savings.
    """

    def __init__(self, run: Run, workbench: Workbench, every: float = 120.0) -> None:
        self.path = workbench.cache / f"{run.experiment}-{run.digest}.pt"
        self.deadline = workbench.deadline
        self.every = every
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where nothing was."""
        return torch.load(self.path, weights_only=True) if self.path.is_file() else None

    def keep(self, content: Callable[[], dict[str, Any]]) -> None:
        """Save when it is time to.

        Raises:
            OutOfTime: after the deadline, when it is saved.
            ExperimentError: if the file can't be written.
        """
        now = time.monotonic()
        if now - self._saved < self.every and now < self.deadline:
            return
        partial = self.path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content(), partial)
            partial.replace(self.path)
        except OSError as error:
            raise ExperimentError(f"{self.path} can't be written: {error.strerror}") from error
        self._saved = time.monotonic()
        if now >= self.deadline:
            raise OutOfTime

    def drop(self) -> None:
        """Delete the file of a run that is over."""
        Path(self.path).unlink(missing_ok=True)


def optim_config(run: Run, budget: Budget) -> OptimConfig:
    """AdamW (0.9, 0.95) with a cosine to 0 and the run's learning rate and weight decay."""
    return OptimConfig(
        learning_rate=run.learning_rate,
        weight_decay=run.weight_decay,
        min_lr_ratio=0.0,
        warmup_fraction=budget.warmup_fraction,
    )


def beside(model: nn.Module, batch: Batch) -> Batch:
    """The batch on the device of the model's weights, if it has any."""
    device = next(model.parameters(), batch[0]).device
    return batch[0].to(device), batch[1].to(device)


def loss_of(model: nn.Module, batch: Batch, precision: str = FP32) -> Tensor:
    """Mean cross-entropy over the targets that are asked for, in nats.

    Args:
        model: ids (B, T) to logits (B, T, V).
        batch: what it reads.
        precision: ``bf16`` multiplies matrices in it, as fftnet's trainer does; the loss is float32 always.
    """
    inputs_BT, targets_BT = beside(model, batch)
    with torch.autocast(inputs_BT.device.type, torch.bfloat16, enabled=precision == BF16):
        logits_BTV = model(inputs_BT)
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of the targets asked for that have the largest logit."""
    inputs_BT, targets_BT = beside(model, batch)
    asked_BT = targets_BT != IGNORED
    right_BT = (model(inputs_BT).argmax(dim=-1) == targets_BT) & asked_BT
    return float(right_BT.sum() / asked_BT.sum())


def train(
    model: nn.Module,
    run: Run,
    budget: Budget,
    batch: Callable[[int], Any],
    measure: Callable[[], dict[str, Any]],
    checkpoint: Checkpoint,
    precision: str = FP32,
    loss_of: Callable[[nn.Module, Any, str], Tensor] = loss_of,
) -> Trained:
    """Train a model to the end of its budget, from its checkpoint where there is one.

    Args:
        model: trained in place.
        run: its learning rate and weight decay.
        budget: when it is over.
        batch: number of a step to its batch, a tuple whose first entry is what is read, the same each time:
            so a run goes on exactly where it was.
        measure: is called ``budget.points`` times and returns what the curve shows; its time is not counted.
        checkpoint: where it is put away.
        precision: of the matrix products of training; what is measured is measured in float32.
        loss_of: the mean loss of a batch, of the model, the batch and the precision.

    Raises:
        OutOfTime: at the deadline.
    """
    config = optim_config(run, budget)
    optimizer = make_optimizer(model, config)
    step = 0
    seconds = 0.0
    curve: list[dict[str, Any]] = []
    tokens = 0
    saved = checkpoint.load()
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, tokens, seconds, curve = (saved[name] for name in ("step", "tokens", "seconds", "curve"))

    def content() -> dict[str, Any]:
        weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return weights | {"step": step, "tokens": tokens, "seconds": seconds, "curve": curve}

    while (used := budget.used(step, seconds)) < 1:
        start = time.perf_counter()
        # The share after this step, so that the first one has a learning rate above 0.
        progress = budget.used(step + 1, seconds + (seconds / step if step else 0.01))
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(progress)
        # What dropout draws depends on the step alone, so that a resumed run draws the same.
        torch.manual_seed((run.seed << 32) + step)
        pair = batch(step)
        loss = loss_of(model, pair, precision)
        value = loss.item()
        if not math.isfinite(value):
            checkpoint.drop()
            return Trained(DIVERGED, curve, step, seconds)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        step += 1
        tokens += pair[0].numel()
        seconds += time.perf_counter() - start
        if math.floor(budget.used(step, seconds) * budget.points) > math.floor(used * budget.points):
            row = {"step": step, "tokens": tokens, "seconds": round(seconds, 2), "loss": round(value, 5)}
            model.eval()
            curve.append(row | measure())
            model.train()
        checkpoint.keep(content)
    checkpoint.drop()
    return Trained(FINISHED, curve, step, seconds)
