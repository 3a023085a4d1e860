"""The state of a run: everything that must be saved for it to go on as if it had never stopped."""

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet import serialization
from fftnet.serialization import WEIGHTS_FILE, CheckpointError
from fftnet.training.budget import Counters
from fftnet.training.carry import Carried, deal_out, join
from fftnet.training.distributed import OPTIMIZER, Distributed
from fftnet.training.ema import EMA

TENSORS_FILE = "training.safetensors"
"""The optimizer, random generators, states of rows that go on, and the weights without averaging where an
average is kept."""
VALUES_FILE = "training.json"
"""Everything that is no tensor."""
MAX_LOGGED = 1000
"""Largest number of single losses that are kept for the plot: about one for each pixel of its width."""
RAW_WEIGHTS = "weights."
"""Prefix of the weights without averaging."""


@dataclass
class Interval:
    """Sums over the steps since the last evaluation."""

    loss: float = 0.0
    """Summed over targets."""
    targets: int = 0
    seconds: float = 0.0

    def add(self, loss: float, targets: int, seconds: float) -> None:
        """Count a step."""
        self.loss += loss
        self.targets += targets
        self.seconds += seconds

    @property
    def targets_per_second(self) -> float:
        """Speed of training, evaluations left out."""
        return self.targets / max(self.seconds, 1e-9)


@dataclass
class TrainingState:
    """Everything that changes during a run, but for tensors."""

    counters: Counters = field(default_factory=Counters)
    interval: Interval = field(default_factory=Interval)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row for each evaluation."""
    best: dict[str, Any] | None = None
    """The row with the lowest validation loss."""
    last: dict[str, float] = field(default_factory=dict)
    """Of the last step: loss, learning rate, gradient norm."""
    loss_ema: float | None = None
    """Exponential moving average of the training loss."""
    logged: list[list[float]] = field(default_factory=list)
    """Step and training loss of logged steps, for the plot."""
    logged_every: int = 1
    """Thinning factor n: every n-th logged step is kept; doubled when the list is full."""
    skipped: int = 0
    skipped_in_row: int = 0
    eval_every: int | None = None
    evaluations_waited: int = 0
    """Evaluations in a row without a lower validation loss."""

    def log_loss(self, loss: float, log_every: int) -> None:
        """Keep the loss of the current step, and thin the list evenly if it is full."""
        if self.counters.steps % (log_every * self.logged_every):
            return
        self.logged.append([self.counters.steps, loss])
        if len(self.logged) > MAX_LOGGED:
            self.logged_every *= 2
            kept = log_every * self.logged_every
            self.logged = [point for point in self.logged if point[0] % kept == 0]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainingState":
        """Read what ``asdict`` gave."""
        counters = Counters(**values["counters"])
        interval = Interval(**values["interval"])
        return cls(**(values | {"counters": counters, "interval": interval}))


@dataclass(frozen=True)
class Snapshot:
    """A run at one instant, whole; filled on the main process only."""

    weights: dict[str, Tensor]
    """Those that the model is used with: the average where one is kept."""
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes on disk, about."""
        tensors = [*self.weights.values(), *self.tensors.values()]
        return sum(tensor.nbytes for tensor in tensors) + 2**16

    def write(self, folder: Path, save_files: Callable[[Path], None]) -> None:
        """Write it into a folder.

        Raises:
            CheckpointError: if it can't be written, or a weight is not finite.
        """
        for name, tensor in self.weights.items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} is not finite any more")
        serialization.write_tensors(folder / WEIGHTS_FILE, self.weights)
        serialization.write_tensors(folder / TENSORS_FILE, self.tensors)
        serialization.write_json(folder / VALUES_FILE, self.values)
        save_files(folder)


def capture(
    distributed: Distributed,
    ema: EMA | None,
    state: TrainingState,
    carried: Carried | None,
    settings: dict[str, Any],
) -> Snapshot:
    """Gather a run from all processes; each of them must call this."""
    weights, tensors = distributed.state_dict()
    if ema is not None:
        tensors |= {f"{RAW_WEIGHTS}{name}": tensor.clone() for name, tensor in weights.items()}
        with ema.swapped():
            weights = {name: tensor.clone() for name, tensor in distributed.weights().items()}
    if carried is not None:
        tensors |= join(distributed.all_gather(carried.cpu()))
    generators = distributed.all_gather(random_state(distributed.device))
    for rank, (found, _) in enumerate(generators):
        tensors |= {f"{key}.{rank}": value for key, value in found.items()}
    scaler = distributed.scaler
    values = {
        "state": asdict(state),
        "settings": settings,
        "ema_updates": ema.updates if ema else None,
        "scaler": scaler.state_dict() if scaler else None,
        "random": [values for _, values in generators],
    }
    return Snapshot(weights, tensors, values)


def read_settings(folder: Path) -> Any:
    """The settings that a run was started with.

    Raises:
        CheckpointError: if the folder is no checkpoint of a run.
    """
    return _values(folder)["settings"]


def restore(distributed: Distributed, ema: EMA | None, folder: Path) -> tuple[TrainingState, Carried | None]:
    """Go back to what ``capture`` saw, on any number of processes; each of them must call this.

    Random generators go on where they stood; processes that were not there before start their own.

    Raises:
        CheckpointError: naming the file that is missing, damaged or of another model.
    """
    values = _values(folder)
    weights = serialization.read_weights(distributed.raw_model, folder / WEIGHTS_FILE)
    tensors = serialization.read_tensors(folder / TENSORS_FILE)
    optimizer = {name: tensor for name, tensor in tensors.items() if name.startswith(OPTIMIZER)}
    try:
        distributed.load_state_dict(weights, optimizer)
        if ema is not None:
            ema.restore(values["ema_updates"])
            distributed.load_state_dict(_without(RAW_WEIGHTS, tensors), optimizer)
        if distributed.scaler is not None and values["scaler"] is not None:
            distributed.scaler.load_state_dict(values["scaler"])
        rank = distributed.rank
        if rank < len(values["random"]):
            own = {name.removesuffix(f".{rank}"): tensor for name, tensor in tensors.items()}
            set_random_state(own, values["random"][rank], distributed.device)
        carried = deal_out(tensors, rank, distributed.world, distributed.accumulation_steps)
        return TrainingState.from_json(values["state"]), carried
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} does not fit this run, take another checkpoint: {' '.join(str(error).split())}"
        ) from error


def random_state(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Where the global random generators stand.

    Returns:
        torch's states as uint8 tensors (that of ``device`` too where it is not the CPU), and those of Python
        and NumPy as JSON-able values.
    """
    tensors = {"rng": torch.get_rng_state()}
    if device.type != "cpu":
        tensors["device_rng"] = torch.get_device_module(device).get_rng_state()
    name, words, *rest = np.random.get_state(legacy=True)
    return tensors, {
        "python_rng": random.getstate(),
        "numpy_rng": [name, np.asarray(words).tolist(), *rest],
    }


def set_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any], device: torch.device) -> None:
    """Put back what ``random_state`` gave.

    Raises:
        KeyError: if a state is missing; that of a device other than the CPU may be.
    """
    torch.set_rng_state(tensors["rng"])
    if "device_rng" in tensors and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(tensors["device_rng"])
    version, words, gauss = values["python_rng"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(values["numpy_rng"]))


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _values(folder: Path) -> dict[str, Any]:
    values = serialization.read_json(folder / VALUES_FILE)
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict):
        raise CheckpointError(f"{folder / VALUES_FILE} is of an earlier version: it can be used, not resumed")
    return values
