"""Devices, precision and processes of a run: Hugging Face Accelerate, set up."""

import importlib.util
import os
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.environment import get_int_from_env
from torch import nn

from fftnet.devices import pick_device
from fftnet.errors import UserError
from fftnet.fields import MAX_COUNT, check_fields, check_range, documented

AUTO = "auto"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Precision to Accelerate's name of it. Only matrix products use the narrow formats: weights, updates, the
residual stream, sums in kernels and the loss stay in float32."""
LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""Environment variable in which ``accelerate launch`` passes its precision."""
BF16_WIDTH = 128
"""Smallest width for which ``auto`` chooses bf16.

Speed-up of a training step in bf16, measured on a core with AVX512-BF16 (default mixer, batch 16, window 256,
four layers): 1.3 at D = 32, 1.6 at 64, 2.3 at 128, 2.9 at 256.
"""
LEAST_GAIN = 1.3
"""Smallest measured speed-up of bf16 products for which ``auto`` chooses bf16 on a CPU.

Processors with the same instructions were measured at 2.4 to 5.8, and one at 0.9 to 1.0, on which a training
step in bf16 took 1.4 times as long as in float32.
"""


class TrainingError(UserError, RuntimeError):
    """Training can't start or continue; the message says why, what is kept, and what to do."""


@documented
@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Device, precision and processes of a run."""

    device: str = "auto"
    """Device: cpu, cuda, auto (cuda if available, else cpu), or untested: mps, xpu."""
    precision: str = field(default="auto", metadata={"choices": lambda: (AUTO, *PRECISIONS)})
    """Precision of matrix products: fp32, bf16, fp16 with a loss scale, or auto: the setting of accelerate
    launch, else bf16 if the processor supports it and the model is at least 128 wide, else fp32."""
    strategy: str = field(default="ddp", metadata={"choices": lambda: ("ddp", "fsdp")})
    """Strategy for several processes: ddp (each holds the whole model) or fsdp (the model is sharded)."""
    accumulation_steps: int = 1
    """Gradient accumulation: micro-batches per step and process, computed one after the other."""
    activation_checkpointing: bool = False
    """Activation checkpointing: store only the inputs of layers; less memory, a third more time."""
    compile: bool = False
    """Compilation of the model with torch.compile."""
    trackers: list[str] = field(default_factory=lambda: ["auto"])
    """Experiment trackers in addition to metrics.json: tensorboard, wandb, trackio, mlflow ..., none, or
    auto: tensorboard if it is installed."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_COUNT, "accumulation_steps")

    def tracker_names(self) -> list[str]:
        """Return the names of the trackers in use, with ``auto`` and ``none`` resolved."""
        if self.trackers == [AUTO]:
            return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
        return [name for name in self.trackers if name != "none"]


def launched_rank() -> int:
    """Return the rank that a launcher gave to this process, before processes are connected."""
    return get_int_from_env(("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"), 0)


def make_accelerator(model: nn.Module, config: AcceleratorConfig, folder: Path) -> Accelerator:
    """Join the processes of the run; ``folder`` is the output of trackers that write files."""
    # Errors of the user come first, before processes wait for each other.
    device = pick_device(config.device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cpu" and config.precision == "fp16":
        raise TrainingError("precision fp16 needs a GPU: choose --precision bf16 or fp32")
    if config.compile and device.type == "cpu":
        # Otherwise compiled loops sum the gradient of an embedding in the order in which threads arrive.
        torch.use_deterministic_algorithms(True)
    precision = resolve_precision(config.precision, device, model)
    trackers = config.tracker_names()
    for name in trackers:
        if not importlib.util.find_spec(name):
            raise TrainingError(f"tracker {name!r} is not installed: pip install {name}, or choose none")
    plugin = None
    if config.strategy == "fsdp":
        if processes == 1:
            raise TrainingError(
                "strategy fsdp needs several processes: start them with torchrun, or choose ddp"
            )
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=list(getattr(model, "_no_split_modules", ())),
            cpu_ram_efficient_loading=False,
        )
    if processes == 1:
        # Accelerate keeps the settings of the first run of a process for all later ones.
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=None if precision is None else PRECISIONS[precision],
            gradient_accumulation_steps=config.accumulation_steps,
            fsdp_plugin=plugin,
            dynamo_backend="inductor" if config.compile else None,
            log_with=cast(Any, trackers or None),
            project_dir=folder,
        )
    except (ValueError, ImportError) as error:
        raise TrainingError(f"the run can't be set up: {error}") from error
    # Accelerate ignores a device that it does not know.
    if config.device != AUTO and accelerator.device.type != device.type:
        raise TrainingError(f"device {config.device} can't train: choose cpu or auto")
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate enables FSDP on GPUs only. PyTorch's FSDP also works on CPUs, where the tests use it.
        accelerator.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def resolve_precision(precision: str, device: torch.device, model: nn.Module) -> str | None:
    """Resolve ``auto`` to a name in ``PRECISIONS``; None if ``accelerate launch`` has chosen one.

    The width of a model is its ``config.d_model``; a model without one counts as narrow.
    """
    if precision != AUTO:
        return precision
    # Accelerate reads the variable itself.
    if LAUNCHED in os.environ:
        return None
    width = getattr(getattr(model, "config", None), "d_model", 0)
    if width < BF16_WIDTH or not has_bf16(device):
        return "fp32"
    # Instructions for bf16 alone do not make it faster, see LEAST_GAIN.
    return "bf16" if device.type != "cpu" or product_gain() >= LEAST_GAIN else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 matrices natively; False for devices other than CPU and CUDA.

    A CPU needs AVX512-BF16 or AMX, and oneDNN, which uses them. Without these instructions oneDNN emulates
    bf16 and is slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@lru_cache(maxsize=1)
def product_gain() -> float:
    """Return the speed-up of bf16 over float32 matrix products on the CPU, measured once in about 50 ms."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.randn(2, 1024, 256).to(dtype)
        # The minimum of a few tries is the least disturbed by other processes.
        tries = []
        for _ in range(7):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.float32] / seconds[torch.bfloat16]
