"""How much a run may spend: epochs, steps, tokens or minutes, and how far it is."""

import math
from dataclasses import dataclass


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
    """End after so many tokens."""
    max_minutes: float | None = None
    """End after so many minutes of training and evaluation; those of a resumed run are added up."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "max_steps", "max_tokens", "max_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass
class Spent:
    """What a run has spent."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Budget:
    """The limits of a run.

    Args:
        config: the limits.
        batches: batches in an epoch.
    """

    def __init__(self, config: BudgetConfig, batches: int) -> None:
        limits = {
            "steps": config.max_steps,
            "tokens": config.max_tokens,
            "seconds": config.max_minutes and config.max_minutes * 60,
        }
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        if not self.limits:
            self.limits = {"steps": config.num_epochs * batches}

    def done(self, spent: Spent) -> float:
        """The part that is spent: the largest over the limits, 1 or more in the end."""
        return max(getattr(spent, name) / limit for name, limit in self.limits.items())

    def steps(self, tokens: int, seconds: float) -> int:
        """Steps that a run will take, if each costs so much."""
        cost = {"steps": 1, "tokens": max(tokens, 1), "seconds": max(seconds, 1e-9)}
        return max(1, math.ceil(min(limit / cost[name] for name, limit in self.limits.items())))
