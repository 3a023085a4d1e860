"""The length of a run in epochs, steps, targets or minutes, and the part of it that is done."""

import math
from dataclasses import dataclass

from fftnet.fields import check_fields, documented


@documented
@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """When a run ends: after the first of the limits that are set, or else after the epochs.

    Raises:
        ValueError: if a field is out of range.
    """

    num_epochs: int = 10
    """Passes over the training data, where no other limit is set."""
    max_steps: int | None = None
    """End after so many steps, however many epochs that takes."""
    max_tokens: int | None = None
    """End after training on so many tokens (of other data than text: targets that count)."""
    max_minutes: float | None = None
    """End after so many minutes of training and evaluation; those of a resumed run are added up."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("num_epochs", "max_steps", "max_tokens", "max_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass
class Counters:
    """Steps, targets and seconds that a run has used of its budget."""

    steps: int = 0
    """Batches that were trained on."""
    targets: int = 0
    """Targets that counted, over all processes."""
    seconds: float = 0.0
    """Training and evaluation, earlier parts of a resumed run included."""


class Budget:
    """The limits of a run.

    Args:
        config: the limits.
        batches: batches in an epoch.
    """

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
        """The part of the budget that is used: the largest over the limits, 1 or more in the end."""
        return max(getattr(counters, name) / limit for name, limit in self.limits.items())

    def steps(self, targets: int, seconds: float) -> int:
        """Number of steps in a run, from the targets and seconds of one step."""
        cost = {"steps": 1, "targets": max(targets, 1), "seconds": max(seconds, 1e-9)}
        return max(1, math.ceil(min(limit / cost[name] for name, limit in self.limits.items())))
