"""Settings of the trainer: evaluations and safeguards, length of a run, metadata and callbacks."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from fftnet.fields import check_fields, check_positive, documented


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Evaluations, logging and safeguards of a run."""

    eval_every: int | None = None
    """Steps between two evaluations (default: an epoch, but 5 to 30 evaluations per run)."""
    eval_batches: int = 50
    """Maximum number of validation batches per evaluation; the last evaluation uses all."""
    early_stopping: int | None = None
    """Number of evaluations in a row without a lower validation loss after which the run ends; use the
    checkpoint best then."""
    log_every: int = 10
    """Steps between two records sent to the trackers."""
    loss_spike: float = 3.0
    """Maximum rise of the loss above its moving average; an update with a larger loss is skipped."""
    max_skipped: int = 10
    """Number of skipped updates in a row (loss spikes, values that are not finite) that ends the run."""
    seed: int = 0
    """Random seed for weight initialization and dropout."""
    progress: bool = True
    """Progress bar, description of the run at its start, and a line per evaluation."""

    def __post_init__(self) -> None:
        check_fields(self)
        counts = ("eval_every", "eval_batches", "early_stopping", "log_every", "max_skipped")
        check_positive(self, *counts, "loss_spike")


@documented
@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Length of a run: it ends at the first of the limits that are set, by default after ``num_epochs``."""

    num_epochs: int = 10
    """Number of passes over the training data, if no other limit is set."""
    max_steps: int | None = None
    """Maximum number of training steps, whatever the number of epochs."""
    max_tokens: int | None = None
    """Maximum number of training tokens (of data other than text: counted targets)."""
    max_minutes: float | None = None
    """Maximum duration of training and evaluation, minutes; the parts of a resumed run are added up."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "num_epochs", "max_steps", "max_tokens", "max_minutes")


@dataclass
class Counters:
    """Steps, targets and seconds that a run has used of its budget."""

    steps: int = 0
    targets: int = 0
    """Number of counted targets, over all processes."""
    seconds: float = 0.0
    """Duration of training and evaluation, including earlier parts of a resumed run."""


class Budget:
    """The limits of a run, with ``batches`` in an epoch."""

    def __init__(self, config: BudgetConfig, batches: int) -> None:
        limits = {
            "steps": config.max_steps,
            "targets": config.max_tokens,
            "seconds": config.max_minutes and config.max_minutes * 60,
        }
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        if not self.limits:
            self.limits = {"steps": config.num_epochs * batches}

    def progress(self, counters: Counters) -> float:
        """Return the used fraction of the budget: the largest over the limits, 1 or more at the end."""
        return max(getattr(counters, name) / limit for name, limit in self.limits.items())

    def steps(self, targets: int, seconds: float) -> int:
        """Estimate the number of steps of a run from the targets and seconds of one step."""
        # A budget in minutes is converted with the measured duration of a step.
        cost = {"steps": 1, "targets": max(targets, 1), "seconds": max(seconds, 1e-9)}
        return max(1, math.ceil(min(limit / cost[name] for name, limit in self.limits.items())))


@dataclass(frozen=True, kw_only=True)
class RunMetadata:
    """Properties of a run that are known before it starts."""

    entropy_floor: float | None = None
    """Lowest possible validation loss, if known."""
    fingerprint: Any = None
    """JSON-able description of model and data; a checkpoint with another one is not resumed."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that a run calls, on its main process only."""

    save_files: Callable[[Path], None] = lambda folder: None
    """Writes further files of a checkpoint into the given folder."""
    check_files: Callable[[Path], str | None] = lambda folder: None
    """Refuses to resume a checkpoint because of such files, or returns a message for the user."""
    sample: Callable[[dict[str, Tensor]], str] | None = None
    """Generates a text with the given weights, shown at every evaluation."""
    # Above the progress bar if present.
    message: Callable[[str], None] = lambda line: tqdm.write(line, file=sys.stderr)
    """Shows a line to the user."""
