"""The optimizer and its schedules."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a schedule that follows.

    Raises:
        ValueError: if a field is out of range.
    """

    learning_rate: float = 3e-3
    """Peak of the schedule."""
    schedule: str = "cosine"
    """What follows the warm-up: cosine, or wsd (stable, then a straight decay at the end)."""
    final_fraction: float = 0.02
    """Learning rate in the end, as a part of the peak."""
    warmup_fraction: float = 0.05
    """Part of the budget in which the learning rate rises from 0."""
    decay_fraction: float = 0.2
    """Part of the budget in which the wsd schedule falls."""
    weight_decay: float = 0.1
    """Decay of matrices; gains, biases, filters and time scales do not decay."""
    beta1: float = 0.9
    """Memory of the gradient's mean."""
    beta2: float = 0.95
    """Memory of the gradient's square."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    ema_decay: float | None = None
    """Keep a moving average of the weights, such as 0.999, and evaluate and write with it."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; choose from {', '.join(SCHEDULES)}")
        for name in ("final_fraction", "warmup_fraction", "decay_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if self.weight_decay < 0 or self.gradient_clip <= 0:
            raise ValueError("weight_decay must be 0 or more and gradient_clip above 0")

    def rate(self, done: float) -> float:
        """Learning rate of the step that brings the spent part of the budget to ``done``, in [0, 1]."""
        if done < self.warmup_fraction:
            return self.learning_rate * done / self.warmup_fraction
        left = SCHEDULES[self.schedule](self, min(done, 1.0))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * left)


def _cosine(config: OptimConfig, done: float) -> float:
    passed = (done - config.warmup_fraction) / max(1 - config.warmup_fraction, 1e-9)
    return (1 + math.cos(math.pi * passed)) / 2


def _warmup_stable_decay(config: OptimConfig, done: float) -> float:
    return min(1.0, (1 - done) / max(config.decay_fraction, 1e-9))


SCHEDULES: dict[str, Callable[[OptimConfig, float], float]] = {
    "cosine": _cosine,
    "wsd": _warmup_stable_decay,
}
"""What is left of the learning rate, from 1 to 0, by the part of the budget that is spent."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters.

    Weights of linear layers and embeddings decay (parameters called ``weight``, two dimensions or more);
    everything else, which is small and has a meaning of its own, does not.
    """
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = decayed if name.split(".")[-1] == "weight" and parameter.ndim >= 2 else kept
            group.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
