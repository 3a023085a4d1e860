"""The plan and the cost of a run, from a dry run of its first batch."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from fftnet.protocols import Batch, Batches, Objective
from fftnet.training.distributed import Distributed

CPU_PEAK_SIZE = 1024
"""Side of the square matrices whose product is timed."""
GPU_PEAK_SIZE = 8192
PEAK_REPEATS = 5


@dataclass(frozen=True)
class Forecast:
    """Costs of a training step, and the speed that the machine could reach."""

    rows: int
    """Rows of a step, on all processes."""
    targets: int
    """Counted targets of a step, on all processes."""
    seconds: float
    """Of a step, the optimizer left out."""
    flops: float
    """Of the matrix products of a step of the model, on all processes."""
    peak_flops: float
    """Floating-point operations a second of large matrix products, on all processes."""
    memory: int
    """Bytes that a process will need at its peak."""

    def mfu(self, targets_per_second: float) -> float:
        """Model FLOPs utilisation: the part of the peak that goes into the model's matrix products."""
        return targets_per_second / self.targets * self.flops / self.peak_flops


def dry_run(distributed: Distributed, objective: Objective, batch: Batch) -> Forecast:
    """Compute the gradients of one batch twice, time the second, and leave the model as it was.

    Args:
        distributed: holds the model.
        objective: losses of a batch.
        batch: one of the whole run.
    """
    # Running statistics, as of batch normalisation, are all that a forward pass changes.
    buffers = [(buffer, buffer.clone()) for buffer in distributed.raw_model.buffers()]
    flops = _flops(distributed, objective, batch)
    distributed.accumulate(objective, batch)
    start = time.perf_counter()
    (_, count), _ = distributed.accumulate(objective, batch)
    seconds = time.perf_counter() - start
    distributed.optimizer.zero_grad(set_to_none=True)
    for buffer, value in buffers:
        buffer.copy_(value)
    return Forecast(
        rows=batch.num_rows,
        targets=max(int(count), 1),
        seconds=max(distributed.all_gather(seconds)),
        flops=flops,
        peak_flops=sum(distributed.all_gather(_matmul_peak(distributed))),
        memory=max(distributed.all_gather(_memory(distributed))),
    )


def _flops(distributed: Distributed, objective: Objective, batch: Batch) -> float:
    # Imported here because it takes a quarter of a second, which other commands need not wait for.
    from torch.utils.flop_counter import FlopCounterMode

    # A model that is split computes as a whole only; any other is counted uncompiled. The counter hooks into
    # modules, of which the compiler warns.
    counted = distributed.model if distributed.model_shards > 1 else distributed.raw_model
    part = distributed.micro_batches(batch)[0]
    with torch.no_grad(), warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("ignore", UserWarning)
        objective(counted, part)
    # A backward pass has twice the products.
    return 3.0 * counter.get_total_flops() / part.num_rows * batch.num_rows


def run_summary(
    distributed: Distributed, forecast: Forecast, steps: int, train: Batches, valid: Batches, unit: str
) -> Iterator[str]:
    """Describe a run before it starts, in lines for a person: model, steps, time, memory.

    Args:
        distributed: the processes, with the model.
        forecast: costs of a step.
        steps: of the run.
        train: training data.
        valid: validation data.
        unit: what is counted, in the plural.
    """
    yield model_summary(distributed.raw_model)
    epochs = steps / train.num_batches
    yield (
        f"{steps:,} steps of about {forecast.targets:,} {unit}, {steps * forecast.targets:,} in all: "
        f"{epochs:.3g} epochs of {train.num_batches:,} batches; {valid.num_batches:,} to validate"
    )
    wanted = distributed.world * distributed.accumulation_steps
    if forecast.rows < wanted:
        yield f"batches of {forecast.rows} rows leave some of {wanted} micro-batches empty: raise batch_size"
    speed = forecast.targets / forecast.seconds
    device = distributed.device.type
    where = f"{distributed.world} x {device}" if distributed.world > 1 else device
    yield (
        f"about {_duration(steps * forecast.seconds)} on {where} in {distributed.precision}, "
        f"{speed:,.0f} {unit}/s, "
        f"{forecast.mfu(speed):.0%} of {forecast.peak_flops / 1e9:,.0f} GFLOP/s that large matrix products "
        f"reach; about {forecast.memory / 1e9:.2f} GB of memory"
    )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    hours = seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if minutes >= 120:
        return f"{hours:.1f} hours"
    return f"{minutes:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def model_summary(model: nn.Module) -> str:
    """Learned numbers by part: ``1,234 parameters (embedding 34, 4 layers of 300: mixer 200, norm 100)``."""
    named = []
    for name, part in _parts(model):
        count = _count(part)
        if isinstance(part, nn.ModuleList) and len(part) and _count(part[0]) * len(part) == count:
            inner = ", ".join(
                f"{key} {_count(sub):,}" for key, sub in part[0].named_children() if _count(sub)
            )
            named.append(f"{len(part)} {name} of {_count(part[0]):,}: {inner}")
        elif count:
            named.append(f"{name} {count:,}")
    return f"{_count(model):,} parameters ({'; '.join(named)})"


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a model, and in the place of one that holds a list of layers, its children."""
    for name, part in model.named_children():
        if any(isinstance(child, nn.ModuleList) for child in part.children()):
            yield from _parts(part)
        else:
            yield name, part


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matmul_peak(distributed: Distributed) -> float:
    device = distributed.device
    size = CPU_PEAK_SIZE if device.type == "cpu" else GPU_PEAK_SIZE
    left, right = torch.ones(2, size, size, device=device, dtype=distributed.dtype).unbind()
    best = min(_seconds(lambda: left @ right, device) for _ in range(PEAK_REPEATS))
    return 2.0 * size**3 / best


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = (lambda: None) if device.type == "cpu" else torch.get_device_module(device).synchronize
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _memory(distributed: Distributed) -> int:
    # Two moments of every weight come with the first step.
    numbers = sum(parameter.numel() for parameter in distributed.model.parameters())
    return memory_in_use(distributed.device) + 8 * numbers // distributed.model_shards


def memory_in_use(device: torch.device) -> int:
    """Most bytes that this process has had at once: on a GPU that counts them, or in main memory."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
