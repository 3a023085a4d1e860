"""What a run is about to do and cost, from one trial of its first batch."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from fftnet.protocols import Batches, Objective
from fftnet.training.distributed import Engine

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product is timed."""
PEAK_REPEATS = 5


@dataclass(frozen=True)
class Forecast:
    """Costs of a step, and what the machine could do."""

    rows: int
    """Rows of a step, on all processes."""
    tokens: int
    """Tokens of a step at most, on all processes."""
    seconds: float
    """Of a step, the optimizer left out."""
    flops: float
    """Of the matrix products of a step of the model, on all processes."""
    peak: float
    """Floating-point operations a second of large matrix products, on all processes."""
    memory: int
    """Bytes that a process will need at its peak."""

    def utilisation(self, tokens_per_second: float) -> float:
        """The part of the peak that goes into the model's matrix products at such a speed."""
        return tokens_per_second / self.tokens * self.flops / self.peak


def try_out(engine: Engine, objective: Objective, rows: torch.Tensor) -> Forecast:
    """Compute the gradients of one batch twice, time the second, and leave everything as it was.

    Args:
        engine: holds the model.
        objective: losses of rows.
        rows: int64 (B, T + 1), a batch of the whole run.
    """
    # Imported here because it takes a quarter of a second, which other commands need not wait for.
    from torch.utils.flop_counter import FlopCounterMode

    # A model that is split computes as a whole only; any other is counted uncompiled. A backward pass has
    # twice the products. The counter hooks into modules, of which the compiler warns.
    counted = engine.model if engine.shards > 1 else engine.raw
    with torch.no_grad(), warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("ignore", UserWarning)
        piece = engine.share(rows)[0]
        objective(counted, piece)
    flops = 3.0 * counter.get_total_flops() / len(piece) * len(rows)
    engine.accumulate(objective, rows)
    start = time.perf_counter()
    engine.accumulate(objective, rows)
    seconds = time.perf_counter() - start
    engine.optimizer.zero_grad(set_to_none=True)
    slowest = max(engine.gathered(seconds))
    return Forecast(
        rows=len(rows),
        tokens=rows.shape[0] * (rows.shape[1] - 1),
        seconds=slowest,
        flops=flops,
        peak=sum(engine.gathered(_matmul_peak(engine))),
        memory=max(engine.gathered(_memory(engine))),
    )


def announcement(
    engine: Engine, forecast: Forecast, steps: int, train: Batches, valid: Batches
) -> Iterator[str]:
    """What a run of so many steps is about to do, in lines for a person."""
    yield parts(engine.raw)
    epochs = steps / train.num_batches
    yield (
        f"{steps:,} steps of up to {forecast.tokens:,} tokens, {steps * forecast.tokens:,} in all: "
        f"{epochs:.3g} epochs of {train.num_batches:,} batches; {valid.num_batches:,} to validate"
    )
    wanted = engine.world * engine.accelerator.gradient_accumulation_steps
    if forecast.rows < wanted:
        yield f"batches of {forecast.rows} rows leave some of {wanted} pieces empty: raise batch_size"
    speed = forecast.tokens / forecast.seconds
    where = f"{engine.world} x {engine.device.type}" if engine.world > 1 else engine.device.type
    yield (
        f"about {_duration(steps * forecast.seconds)} on {where}, {speed:,.0f} tokens/s, "
        f"{forecast.utilisation(speed):.0%} of {forecast.peak / 1e9:,.0f} GFLOP/s that large matrix products "
        f"reach; about {forecast.memory / 1e9:.2f} GB of memory"
    )


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if minutes >= 120:
        return f"{hours:.1f} hours"
    return f"{minutes:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def parts(model: nn.Module) -> str:
    """Learned numbers by part: ``1,234 parameters (embedding 34, 4 layers of 300: mixer 200, norm 100)``."""
    named = []
    for name, part in _pieces(model):
        count = _count(part)
        if isinstance(part, nn.ModuleList) and len(part) and _count(part[0]) * len(part) == count:
            inner = ", ".join(
                f"{key} {_count(sub):,}" for key, sub in part[0].named_children() if _count(sub)
            )
            named.append(f"{len(part)} {name} of {_count(part[0]):,}: {inner}")
        elif count:
            named.append(f"{name} {count:,}")
    return f"{_count(model):,} parameters ({'; '.join(named)})"


def _pieces(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a model, and in the place of one that holds a list of layers, its children."""
    for name, part in model.named_children():
        if any(isinstance(child, nn.ModuleList) for child in part.children()):
            yield from _pieces(part)
        else:
            yield name, part


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matmul_peak(engine: Engine) -> float:
    size = PEAK_SIZE[engine.device.type]
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes.get(engine.accelerator.mixed_precision, torch.float32)
    left, right = torch.ones(2, size, size, device=engine.device, dtype=dtype).unbind()
    best = min(_seconds(lambda: left @ right, engine.device) for _ in range(PEAK_REPEATS))
    return 2.0 * size**3 / best


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _memory(engine: Engine) -> int:
    # Two moments of every weight come with the first step.
    moments = 8 * sum(parameter.numel() for parameter in engine.model.parameters()) // engine.shards
    return memory_in_use(engine.device) + moments


def memory_in_use(device: torch.device) -> int:
    """Most bytes that this process has had at once: on the GPU, or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
