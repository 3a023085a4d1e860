"""Training loop of all experiments: numbered batches, a budget of steps or seconds, checkpoints.

It is not ``fftnet.utils.trainer``, which would change the published results: they depend on budgets of
seconds, on the schedule over their used share, on one random state per step and on mean losses of a batch.
"""

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
from experiments.building import count_parameters
from experiments.results import ExperimentError
from fftnet.training.optim import ADAMW, OptimConfig, make_optimizer

IGNORED = -100
"""Target that is not counted."""

FP32 = "fp32"
BF16 = "bf16"

Batch = tuple[Tensor, Tensor]
"""Ids int64 (B, T) and targets of the same shape, ``IGNORED`` where nothing is asked."""


class OutOfTime(Exception):
    """The process has used its time. The run is saved and continues when it is called again."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Length of a training; the schedule follows the used share. Exactly one of steps and seconds is set."""

    steps: int | None = None
    """Optimizer steps."""
    seconds: float | None = None
    """Duration of training in seconds, without evaluation."""
    warmup_fraction: float = 0.1
    """Share in which the learning rate rises from 0. A cosine to 0 follows."""
    points: int = 6
    """Number of measurements on the curve, the end included."""

    def used(self, steps: int, seconds: float) -> float:
        """Return the used share of the budget."""
        # Exactly one of the two budgets is set.
        if self.steps is not None:
            return steps / self.steps
        return seconds / (self.seconds or 1.0)


@dataclass(frozen=True)
class Trained:
    """Outcome of a training."""

    outcome: str
    """Finished, or diverged."""
    curve: list[dict[str, Any]]
    """Rows with step, tokens, seconds, loss and the values of ``measure``."""
    steps: int
    seconds: float

    def line(
        self, model: nn.Module, state_numbers: int | None, measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the fields of a result line.

        Args:
            model: the trained model.
            state_numbers: numbers that a layer carries (None: they grow, or there is no state).
            measure: returns further results; it is called for a finished run, in evaluation mode.
        """
        results: dict[str, Any] = {"curve": self.curve, "training_seconds": round(self.seconds, 1)}
        if self.outcome == FINISHED:
            model.eval()
            results |= measure()
        return {
            "parameters": count_parameters(model),
            "state_numbers": state_numbers,
            "outcome": self.outcome,
            "results": results,
        }


class Checkpoint:
    """File of an unfinished run.

    Args:
        run: the run that it belongs to.
        workbench: folder of the file, and deadline of the process.
        every: time between two saves, in seconds.
    """

    def __init__(self, run: Run, workbench: Workbench, every: float = 120.0) -> None:
        self.path = workbench.cache / f"{run.experiment}-{run.digest}.pt"
        self.deadline = workbench.deadline
        self.every = every
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the saved content, or None if nothing was saved."""
        return torch.load(self.path, weights_only=True) if self.path.is_file() else None

    def keep(self, content: Callable[[], dict[str, Any]]) -> None:
        """Save if it is time to.

        Raises:
            OutOfTime: after the deadline, when the content is saved.
            ExperimentError: if the file can't be written.
        """
        now = time.monotonic()
        if now - self._saved < self.every and now < self.deadline:
            return
        # Under its name only when it is whole: a killed process leaves the previous checkpoint.
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


def to_device_of(model: nn.Module, batch: Batch) -> Batch:
    """Return the batch on the device of the model's weights, if it has any."""
    device = next(model.parameters(), batch[0]).device
    return batch[0].to(device), batch[1].to(device)


def loss_of(model: nn.Module, batch: Batch, precision: str = FP32) -> Tensor:
    """Return the mean cross-entropy over the counted targets, in nats.

    Args:
        model: maps ids (B, T) to logits (B, T, V).
        batch: ids and targets.
        precision: dtype of the matrix products, as in fftnet's trainer. The loss is always float32.
    """
    inputs_BT, targets_BT = to_device_of(model, batch)
    with torch.autocast(inputs_BT.device.type, torch.bfloat16, enabled=precision == BF16):
        logits_BTV = model(inputs_BT)
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Return the share of the counted targets with the largest logit."""
    inputs_BT, targets_BT = to_device_of(model, batch)
    # Only some positions ask for an answer, such as the queries of recall.
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
    """Train a model to the end of its budget, from its checkpoint if there is one.

    Args:
        model: trained in place.
        run: learning rate, weight decay and seed; its settings may name an ``optimizer`` (default: AdamW).
        budget: length of the training.
        batch: maps the number of a step to its batch, a tuple that starts with the inputs. A step has the
            same batch each time, so that a run continues exactly where it was.
        measure: returns the values of a point of the curve. Its time is not counted.
        checkpoint: file of the unfinished run.
        precision: dtype of the matrix products of training. Measurements are float32.
        loss_of: maps model, batch and precision to the mean loss.

    Raises:
        OutOfTime: at the deadline.
    """
    config, optimizer, done = _begin(model, run, budget, checkpoint.load())
    while (used := budget.used(done["step"], done["seconds"])) < 1:
        start = time.perf_counter()
        _set_learning_rate(optimizer, config, budget, done["step"], done["seconds"])
        # Dropout depends on seed and step only, so that a resumed run draws the same.
        torch.manual_seed((run.seed << 32) + done["step"])
        drawn = batch(done["step"])
        loss = loss_of(model, drawn, precision)
        # The loss is read before the update, so that a diverged run ends without one.
        value = loss.item()
        if not math.isfinite(value):
            checkpoint.drop()
            return Trained(DIVERGED, done["curve"], done["step"], done["seconds"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        done["step"] += 1
        done["tokens"] += drawn[0].numel()
        done["seconds"] += time.perf_counter() - start
        now = budget.used(done["step"], done["seconds"])
        # A point of the curve is due when the used share passes a multiple of 1 / points.
        if math.floor(now * budget.points) > math.floor(used * budget.points):
            row = {"step": done["step"], "tokens": done["tokens"], "seconds": round(done["seconds"], 2)}
            model.eval()
            done["curve"].append(row | {"loss": round(value, 5)} | measure())
            model.train()
        # Also ends the process at the deadline.
        checkpoint.keep(lambda: done | {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    checkpoint.drop()
    return Trained(FINISHED, done["curve"], done["step"], done["seconds"])


def _begin(
    model: nn.Module, run: Run, budget: Budget, saved: dict[str, Any] | None
) -> tuple[OptimConfig, torch.optim.Optimizer, dict[str, Any]]:
    """Return the optimizer with its configuration and the progress, restored if there is a checkpoint."""
    # AdamW (0.9, 0.95), alone or next to Muon, with a cosine to 0.
    config = OptimConfig(
        optimizer=run.configuration["settings"].get("optimizer", ADAMW),
        learning_rate=run.learning_rate,
        weight_decay=run.weight_decay,
        min_lr_ratio=0.0,
        warmup_fraction=budget.warmup_fraction,
    )
    optimizer = make_optimizer(model, config)
    done: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "curve": []}
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = {name: saved[name] for name in done}
    return config, optimizer, done


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, config: OptimConfig, budget: Budget, step: int, seconds: float
) -> None:
    """Set the learning rate at the used share after this step, which is above 0 at the first step."""
    progress = budget.used(step + 1, seconds + (seconds / step if step else 0.01))
    for group in optimizer.param_groups:
        group["lr"] = config.lr_at(progress)
