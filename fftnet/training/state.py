"""How far a run is, and all that must be kept for it to go on as if it had never stopped."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fftnet import serialization
from fftnet.serialization import CheckpointError
from fftnet.training.budget import Spent
from fftnet.training.distributed import OPTIMIZER, Engine
from fftnet.training.ema import WeightAverage

WEIGHTS, STATE, PROGRESS = "model.safetensors", "training.safetensors", "training.json"
RAW = "weights."


@dataclass
class Interval:
    """What was trained since the last row of the history."""

    nats: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, nats: float, tokens: int, seconds: float) -> None:
        """Count a step."""
        self.nats, self.tokens, self.seconds = self.nats + nats, self.tokens + tokens, self.seconds + seconds

    @property
    def tokens_per_second(self) -> float:
        """Speed of training, evaluations left out."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass
class Progress:
    """Everything that changes during a run, but for tensors."""

    spent: Spent = field(default_factory=Spent)
    interval: Interval = field(default_factory=Interval)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an evaluation."""
    best: dict[str, Any] | None = None
    """The row with the lowest validation loss."""
    last: dict[str, float] = field(default_factory=dict)
    """Of the last step: loss, learning rate, gradient norm."""
    level: float | None = None
    """Running average of the training loss, in nats."""
    skipped: int = 0
    skipped_in_row: int = 0
    eval_every: int | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """What ``asdict`` gave, read back."""
        nested = {"spent": Spent(**values["spent"]), "interval": Interval(**values["interval"])}
        return cls(**(values | nested))


@dataclass(frozen=True)
class Snapshot:
    """A run at one instant, whole; filled on the main process only."""

    weights: dict[str, Tensor]
    """What the model writes with: the average where one is kept."""
    training: dict[str, Tensor]
    values: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes on disk, about."""
        tensors = [*self.weights.values(), *self.training.values()]
        return sum(tensor.nbytes for tensor in tensors) + 2**16

    def write(self, folder: Path, save_extras: Callable[[Path], None]) -> None:
        """Write it into a folder.

        Raises:
            CheckpointError: if it can't be written, or a weight is not finite.
        """
        for name, tensor in self.weights.items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} is not finite any more")
        serialization.write_tensors(folder / WEIGHTS, self.weights)
        serialization.write_tensors(folder / STATE, self.training)
        serialization.write_json(folder / PROGRESS, self.values)
        save_extras(folder)


def take(engine: Engine, average: WeightAverage | None, progress: Progress, settings: Any) -> Snapshot:
    """Gather a run from all processes; each of them must call this."""
    weights, training = engine.state()
    if average is not None:
        training |= {f"{RAW}{name}": tensor.clone() for name, tensor in weights.items()}
        with average.in_place():
            weights = {name: tensor.clone() for name, tensor in engine.weights().items()}
    generators = engine.gathered(serialization.random_state(engine.device))
    for rank, (found, _) in enumerate(generators):
        training |= {f"{key}.{rank}": value for key, value in found.items()}
    scaler = engine.accelerator.scaler
    values = {
        "progress": asdict(progress),
        "settings": settings,
        "average_updates": average.updates if average else None,
        "scaler": scaler.state_dict() if scaler else None,
        "random": [values for _, values in generators],
    }
    return Snapshot(weights, training, values)


def read_settings(folder: Path) -> Any:
    """The settings that a run was started with.

    Raises:
        CheckpointError: if the folder is no checkpoint of a run.
    """
    return _values(folder)["settings"]


def put_back(engine: Engine, average: WeightAverage | None, folder: Path) -> Progress:
    """Go back to what :func:`take` saw, on any number of processes; each of them must call this.

    Random generators go on where they stood; processes that were not there before start their own.

    Raises:
        CheckpointError: naming the file that is missing, damaged or of another model.
    """
    values = _values(folder)
    weights = serialization.read_weights(engine.raw, folder / WEIGHTS)
    training = serialization.read_tensors(folder / STATE)
    optimizer = {name: tensor for name, tensor in training.items() if name.startswith(OPTIMIZER)}
    try:
        engine.load_state(weights, optimizer)
        if average is not None:
            average.take(values["average_updates"])
            engine.load_state(_named(training, RAW), optimizer)
        if engine.accelerator.scaler is not None and values["scaler"] is not None:
            engine.accelerator.scaler.load_state_dict(values["scaler"])
        rank = engine.rank
        if rank < len(values["random"]):
            own = {name.removesuffix(f".{rank}"): tensor for name, tensor in training.items()}
            serialization.set_random_state(own, values["random"][rank], engine.device)
        return Progress.from_json(values["progress"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} does not fit this run, take another checkpoint: {' '.join(str(error).split())}"
        ) from error


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _values(folder: Path) -> dict[str, Any]:
    values = serialization.read_json(folder / PROGRESS)
    if not isinstance(values, dict) or "settings" not in values:
        raise CheckpointError(f"{folder / PROGRESS} is of an earlier version: it can be used, not resumed")
    return values
