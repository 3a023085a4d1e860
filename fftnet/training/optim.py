"""The optimizer and its schedules."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from fftnet.fields import check_fields, check_range, documented


@documented
@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a schedule that follows.

    Raises:
        ValueError: if a field is out of range.
    """

    learning_rate: float = 3e-3
    """Peak of the schedule."""
    schedule: str = field(default="cosine", metadata={"choices": lambda: SCHEDULES})
    """Learning rate after the warm-up: cosine, or wsd (stable, then a linear decay at the end)."""
    min_lr_ratio: float = 0.02
    """Learning rate at the end, as a fraction of the peak."""
    warmup_fraction: float = 0.05
    """Fraction of the budget in which the learning rate rises from 0."""
    decay_fraction: float = 0.2
    """Fraction of the budget in which the wsd schedule falls."""
    weight_decay: float = 0.1
    """Weight decay of linear layers and embeddings; biases, gains and everything else do not decay."""
    beta1: float = 0.9
    """AdamW beta1, decay of the average of gradients."""
    beta2: float = 0.95
    """AdamW beta2, decay of the average of squared gradients."""
    gradient_clip: float = 1.0
    """Gradient-norm clipping threshold."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, such as 0.999, which is then evaluated and saved."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; choose from {', '.join(SCHEDULES)}")
        for name in ("min_lr_ratio", "warmup_fraction", "decay_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        check_range(self, 0, None, "weight_decay")
        if self.gradient_clip <= 0:
            raise ValueError(f"gradient_clip must be above 0, got {self.gradient_clip}")

    def lr_at(self, progress: float) -> float:
        """Learning rate of the step that brings the used part of the budget to ``progress``, in [0, 1]."""
        if progress < self.warmup_fraction:
            return self.learning_rate * progress / self.warmup_fraction
        left = SCHEDULES[self.schedule](self, min(progress, 1.0))
        return self.learning_rate * (self.min_lr_ratio + (1 - self.min_lr_ratio) * left)


def _cosine(config: OptimConfig, progress: float) -> float:
    passed = (progress - config.warmup_fraction) / max(1 - config.warmup_fraction, 1e-9)
    return (1 + math.cos(math.pi * passed)) / 2


def _warmup_stable_decay(config: OptimConfig, progress: float) -> float:
    return min(1.0, (1 - progress) / max(config.decay_fraction, 1e-9))


SCHEDULES: dict[str, Callable[[OptimConfig, float], float]] = {
    "cosine": _cosine,
    "wsd": _warmup_stable_decay,
}
"""Name to what is left of the learning rate, from 1 to 0, at a progress behind the warm-up."""


DECAYED = (nn.Linear, nn.Embedding)
"""Modules whose ``weight`` decays, beside those whose attribute ``decays`` is true. All other parameters are
small and have a meaning of their own."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters, of which the weights of linear layers and embeddings decay."""
    decaying = {id(module.weight) for module in model.modules() if _decays(module)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def _decays(module: nn.Module) -> bool:
    return isinstance(module, DECAYED) or getattr(module, "decays", False)
