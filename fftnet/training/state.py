"""State of a run: everything that a checkpoint stores so that a resumed run ends with the same bits."""

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
from fftnet.training.config import Counters
from fftnet.training.distributed import OPTIMIZER, Distributed
from fftnet.training.optim import EMA
from fftnet.training.sharding import Carried, deal_out, join

TENSORS_FILE = "training.safetensors"
"""Optimizer, random generators, carried states and, with a moving average, the weights without averaging."""
VALUES_FILE = "training.json"
MAX_LOGGED = 1000
"""Maximum number of losses kept for the plot: about one per pixel of its width."""
RAW_WEIGHTS = "weights."
"""Prefix of the weights without averaging."""


@dataclass
class Interval:
    """Sums over the steps since the last evaluation."""

    loss: float = 0.0
    targets: int = 0
    seconds: float = 0.0

    def add(self, loss: float, targets: int, seconds: float) -> None:
        """Add a step."""
        self.loss += loss
        self.targets += targets
        self.seconds += seconds

    @property
    def targets_per_second(self) -> float:
        """Training speed without evaluations."""
        return self.targets / max(self.seconds, 1e-9)


@dataclass
class TrainingState:
    """Values that change during a run, except tensors."""

    counters: Counters = field(default_factory=Counters)
    interval: Interval = field(default_factory=Interval)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per evaluation."""
    best: dict[str, Any] | None = None
    """Row with the lowest validation loss."""
    last: dict[str, float] = field(default_factory=dict)
    """Loss, learning rate and gradient norm of the last step."""
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
            # Points at twice the distance: half of them stay.
            self.logged_every *= 2
            kept = log_every * self.logged_every
            self.logged = [point for point in self.logged if point[0] % kept == 0]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainingState":
        """Read the result of ``asdict``."""
        parts = {"counters": Counters(**values["counters"]), "interval": Interval(**values["interval"])}
        return cls(**(values | parts))


@dataclass(frozen=True)
class Snapshot:
    """A whole run after a step; filled on the main process only."""

    weights: dict[str, Tensor]
    """Weights to use the model with: the moving average if there is one."""
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    @property
    def size(self) -> int:
        """Estimated size on disk, bytes."""
        return sum(tensor.nbytes for tensor in [*self.weights.values(), *self.tensors.values()]) + 2**16

    def write(self, folder: Path, save_files: Callable[[Path], None]) -> None:
        """Write the snapshot into a folder, unless a weight is not finite."""
        # A checkpoint with such weights would replace a good one.
        for name, tensor in self.weights.items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} has values that are not finite")
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
            # Cloned, because tensors of the model on the CPU change when the average is swapped out.
            weights = {name: tensor.clone() for name, tensor in distributed.weights().items()}
    if carried is not None:
        tensors |= join(distributed.all_gather(carried.cpu()))
    generators = distributed.all_gather(random_state(distributed.device))
    # Every process has its own generators, for example for dropout.
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


def restore(distributed: Distributed, ema: EMA | None, folder: Path) -> tuple[TrainingState, Carried | None]:
    """Load the result of ``capture`` on any number of processes; each of them must call this.

    Random generators continue where they stopped; processes without a stored generator keep their own.
    """
    values = read_values(folder)
    weights = serialization.read_weights(distributed.raw_model, folder / WEIGHTS_FILE)
    tensors = serialization.read_tensors(folder / TENSORS_FILE)
    optimizer = {name: tensor for name, tensor in tensors.items() if name.startswith(OPTIMIZER)}
    try:
        distributed.load_state_dict(weights, optimizer)
        if ema is not None:
            # The average is loaded into the model first, and copied from there: its parts may be sharded.
            ema.restore(values["ema_updates"])
            raw = {n.removeprefix(RAW_WEIGHTS): x for n, x in tensors.items() if n.startswith(RAW_WEIGHTS)}
            distributed.load_state_dict(raw, optimizer)
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


def read_values(folder: Path) -> dict[str, Any]:
    """Read the values of a checkpoint, among them the ``settings`` of its run."""
    values = serialization.read_json(folder / VALUES_FILE)
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict):
        raise CheckpointError(f"{folder / VALUES_FILE} is of an earlier version: it can be used, not resumed")
    return values


def random_state(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of PyTorch's global random generators, and JSON-able those of Python and NumPy."""
    # Tensors hold bits exactly; JSON suffices for the integers of Python and NumPy.
    tensors = {"rng": torch.get_rng_state()}
    if device.type != "cpu":
        tensors["device_rng"] = torch.get_device_module(device).get_rng_state()
    name, words, *rest = np.random.get_state(legacy=True)
    numpy_rng = [name, np.asarray(words).tolist(), *rest]
    return tensors, {"python_rng": random.getstate(), "numpy_rng": numpy_rng}


def set_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any], device: torch.device) -> None:
    """Set the global random generators to the result of ``random_state``."""
    torch.set_rng_state(tensors["rng"])
    if "device_rng" in tensors and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(tensors["device_rng"])
    version, words, gauss = values["python_rng"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(values["numpy_rng"]))
