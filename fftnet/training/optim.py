"""The optimizers, their learning-rate schedules, and the moving average of the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fftnet.fields import check_fields, check_positive, check_range, documented
from fftnet.training.accelerator import TrainingError

DECAYED = (nn.Linear, nn.Embedding)
"""Modules whose ``weight`` decays, in addition to modules with a true attribute ``decays``. Other parameters
are small, and pulling them to 0 would change their meaning (decays, frequencies, gains)."""
ADAMW = "adamw"
MUON = "muon"


@documented
@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer with a linear warm-up and a learning-rate schedule."""

    optimizer: str = field(default=ADAMW, metadata={"choices": lambda: (ADAMW, MUON)})
    """Optimizer: adamw, or muon for the weights of linear layers inside the layers (mixers and feed-forward)
    and AdamW for all other parameters."""
    learning_rate: float = 3e-3
    """Learning rate at the peak of the schedule."""
    schedule: str = field(default="cosine", metadata={"choices": lambda: SCHEDULES})
    """Learning-rate schedule after the warm-up: cosine, or wsd (stable, then a linear decay at the end)."""
    min_lr_ratio: float = 0.02
    """Learning rate at the end, as a fraction of the peak."""
    warmup_fraction: float = 0.05
    """Fraction of the budget in which the learning rate rises from 0."""
    decay_fraction: float = 0.2
    """Fraction of the budget in which the wsd schedule falls."""
    weight_decay: float = 0.1
    """Weight decay of linear layers and embeddings; all other parameters do not decay."""
    beta1: float = 0.9
    """AdamW beta1, decay of the average of gradients."""
    beta2: float = 0.95
    """AdamW beta2, decay of the average of squared gradients."""
    gradient_clip: float = 1.0
    """Gradient-norm clipping threshold."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, such as 0.999; the average is evaluated and
    saved (default: no average)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "learning_rate", "gradient_clip")
        for name in ("min_lr_ratio", "warmup_fraction", "decay_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        check_range(self, 0, None, "weight_decay")

    def lr_at(self, progress: float) -> float:
        """Return the learning rate of the step after which ``progress``, in [0, 1], of the budget is used."""
        # The step itself is included in the progress, so that the first rate is above 0.
        if progress < self.warmup_fraction:
            return self.learning_rate * progress / self.warmup_fraction
        factor = SCHEDULES[self.schedule](self, min(progress, 1.0))
        return self.learning_rate * (self.min_lr_ratio + (1 - self.min_lr_ratio) * factor)


def _cosine(config: OptimConfig, progress: float) -> float:
    after_warmup = (progress - config.warmup_fraction) / max(1 - config.warmup_fraction, 1e-9)
    return (1 + math.cos(math.pi * after_warmup)) / 2


def _warmup_stable_decay(config: OptimConfig, progress: float) -> float:
    return min(1.0, (1 - progress) / max(config.decay_fraction, 1e-9))


SCHEDULES = {"cosine": _cosine, "wsd": _warmup_stable_decay}
"""Name to a function of the progress after the warm-up; it returns the factor of the peak, from 1 to 0."""


def make_optimizer(model: nn.Module, config: OptimConfig, shards: int = 1) -> torch.optim.Optimizer:
    """Make an optimizer for the trained parameters of a model; only some of them decay, see ``DECAYED``.

    Args:
        model: a model that is not sharded yet.
        config: choice of the optimizer and its rates.
        shards: number of processes among which the rows of each parameter will be split.

    Raises:
        TrainingError: if Muon is chosen and can't train this model.
    """
    # By identity, because tied modules share a parameter.
    decaying = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, DECAYED) or getattr(module, "decays", False)
    }
    matrices = _matrices(model) if config.optimizer == MUON else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decaying - matrices], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
    if config.optimizer == ADAMW:
        return adamw
    weights = [p for p in trained if id(p) in matrices]
    if not weights:
        raise TrainingError(
            "optimizer muon needs linear layers inside the layers whose classes the model names in "
            "_no_split_modules, and this model has none: use optimizer adamw"
        )
    if (rows := min(map(len, weights))) < shards:
        raise TrainingError(
            f"optimizer muon can't split a matrix of {rows} rows among {shards} processes: use fewer "
            "processes, strategy ddp or optimizer adamw"
        )
    muon = torch.optim.Muon(
        weights,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        # Updates of the size of AdamW's, so that both have the same learning rate and weight decay.
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonAdamW(muon, adamw)


def _matrices(model: nn.Module) -> set[int]:
    """Return the identities of the weights of linear layers inside the layers of a model.

    Heads and projections of the input are outside of layers. Other matrices, such as the stacked gates of
    ``nn.GRU``, belong to no ``nn.Linear``.
    """
    names = getattr(model, "_no_split_modules", ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    return {id(part.weight) for layer in layers for part in layer.modules() if isinstance(part, nn.Linear)}


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers as one: the first parameter group is that of Muon, the others are those of AdamW."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._muon = muon
        self._adamw = adamw

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters; ``closure``, if given, computes gradients and returns the loss."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        # Loading a checkpoint replaces groups and state, and sharding the parameters.
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state
        self._muon.step()
        self._adamw.step()
        return loss


class EMA:
    """Exponential moving average of a module's parameters, which often generalizes better than the last ones.

    The decay rises to its value over the first steps, as ``min(decay, (1 + n) / (10 + n))``, so that the
    random initialization soon loses its weight. Parameters may be sharded.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._parameters = list(module.parameters())
        self._decay = decay
        self.updates = 0
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights after a step."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        for value, parameter in zip(self._values, self._parameters, strict=True):
            value.lerp_(parameter, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def restore(self, updates: int) -> None:
        """Set the average to the current weights, after a number of updates."""
        for value, parameter in zip(self._values, self._parameters, strict=True):
            value.copy_(parameter)
        self.updates = updates

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the module compute with the average; afterwards the same bits of the weights are back."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self._values, self._parameters, strict=True):
            # One parameter at a time, so that memory grows by one parameter only.
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
