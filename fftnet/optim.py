"""The optimizer and its schedule."""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine that follows.

    Raises:
        ValueError: if a field is out of range.
    """

    learning_rate: float = 3e-3
    """Peak of the schedule."""
    final_fraction: float = 0.02
    """Learning rate in the end, as a part of the peak."""
    warmup_fraction: float = 0.05
    """Part of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.1
    """Decay of matrices; gains, biases, filters and time scales do not decay."""
    beta1: float = 0.9
    """Memory of the gradient's mean."""
    beta2: float = 0.95
    """Memory of the gradient's square."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("final_fraction", "warmup_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.weight_decay < 0 or self.gradient_clip <= 0:
            raise ValueError("weight_decay must be 0 or more and gradient_clip above 0")

    def rate(self, step: int, total: int) -> float:
        """Learning rate of step number ``step``, from 0, of ``total``."""
        warmup = max(round(self.warmup_fraction * total), 1)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(total - warmup, 1)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters.

    Weights of linear layers and embeddings decay (names that end in ``weight``, two dimensions or more);
    everything else, which is small and has a meaning of its own, does not.
    """
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = decayed if name.endswith("weight") and parameter.ndim >= 2 else kept
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
