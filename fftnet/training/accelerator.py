"""One process or many, on CPUs or GPUs, in any precision: Hugging Face Accelerate, set up."""

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.environment import get_int_from_env
from torch import nn

from fftnet.devices import pick_device
from fftnet.errors import UserError
from fftnet.fields import MAX_COUNT, check_fields, check_range, documented
from fftnet.training.precision import AUTO, PRECISIONS, resolve

STRATEGIES = ("ddp", "fsdp")


class TrainingError(UserError, RuntimeError):
    """Training can't start or go on; the message says why, what is kept, and what to do."""


@documented
@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Device, precision and processes of a run.

    Raises:
        ValueError: if a field is unknown or out of range.
    """

    device: str = "auto"
    """cpu, cuda, auto (cuda where there is one), or untested: mps, xpu."""
    precision: str = field(default="auto", metadata={"choices": lambda: (AUTO, *PRECISIONS)})
    """fp32, bf16, fp16 with a loss scale, or auto: what accelerate launch was told, else bf16 where the
    processor has it and the model is at least 128 wide, else fp32."""
    strategy: str = field(default="ddp", metadata={"choices": lambda: STRATEGIES})
    """Several processes: ddp (each holds the whole model) or fsdp (the model is split among them)."""
    accumulation_steps: int = 1
    """Micro-batches that a process works on one after the other, to save memory (gradient accumulation)."""
    activation_checkpointing: bool = False
    """Keep the inputs of layers only and compute the rest twice: less memory, a third more time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    trackers: list[str] = field(default_factory=lambda: ["auto"])
    """Where metrics go beside metrics.json: tensorboard, wandb, trackio, mlflow ..., none, or auto:
    tensorboard where it is installed."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.precision not in (AUTO, *PRECISIONS):
            choice = ", ".join((AUTO, *PRECISIONS))
            raise ValueError(f"unknown precision {self.precision!r}; choose from {choice}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {self.strategy!r}; choose from {', '.join(STRATEGIES)}")
        check_range(self, 1, MAX_COUNT, "accumulation_steps")

    def tracker_names(self) -> list[str]:
        """The trackers that are meant."""
        if self.trackers == ["auto"]:
            return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
        return [name for name in self.trackers if name != "none"]


def launched_rank() -> int:
    """Return the rank that a launcher has given to this process, before the processes have met."""
    return get_int_from_env(("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"), 0)


def make_accelerator(model: nn.Module, config: AcceleratorConfig, folder: Path) -> Accelerator:
    """Join the processes of the run.

    Args:
        model: its ``_no_split_modules`` names the classes of its layers; see also ``precision.resolve``.
        config: where and in which numbers.
        folder: where trackers that write files put them.

    Raises:
        DeviceError: if the device can't be used here.
        TrainingError: if the precision or a tracker can't be.
    """
    device = pick_device(config.device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cpu" and config.precision == "fp16":
        raise TrainingError("fp16 needs a GPU: choose --precision bf16 or fp32")
    if config.compile and device.type == "cpu":
        # Else compiled loops add up an embedding's gradients in the order in which threads come.
        torch.use_deterministic_algorithms(True)
    precision = resolve(config.precision, device, model)
    plugin = None
    if config.strategy == "fsdp":
        if processes == 1:
            raise TrainingError("fsdp needs several processes: start them with torchrun, or choose ddp")
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=list(getattr(model, "_no_split_modules", ())),
            cpu_ram_efficient_loading=False,
        )
    if processes == 1:
        _forget_earlier_runs()
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=None if precision is None else PRECISIONS[precision],
            gradient_accumulation_steps=config.accumulation_steps,
            fsdp_plugin=plugin,
            dynamo_backend="inductor" if config.compile else None,
            log_with=_trackers(config),
            project_dir=folder,
        )
    except (ValueError, ImportError) as error:
        raise TrainingError(f"the run can't be set up here: {error}") from error
    if config.device != "auto" and accelerator.device.type != device.type:
        raise TrainingError(f"training can't run on {config.device} here: choose cpu or auto")
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        _switch_to_fsdp(accelerator, plugin)
    return accelerator


# The two functions below are all that touches Accelerate's private state, for which it has no public way.


def _forget_earlier_runs() -> None:
    """Accelerate keeps the settings of the first run in a process for all that follow."""
    AcceleratorState._reset_state(reset_partial_state=True)


def _switch_to_fsdp(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Accelerate switches FSDP on for GPUs only; PyTorch's works on CPUs too, which is how it is tested."""
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def _trackers(config: AcceleratorConfig) -> Any:
    names = config.tracker_names()
    for name in names:
        if not importlib.util.find_spec(name):
            raise TrainingError(f"tracker {name!r} is not installed: pip install {name}, or choose none")
    return names or None
