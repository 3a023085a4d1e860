"""Output of a run for people: plan at the start, line per evaluation, metrics.json and loss plot."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from fftnet import serialization
from fftnet.metrics.plots import plot_losses
from fftnet.protocols import Batch, Batches, Objective
from fftnet.training.config import RunMetadata
from fftnet.training.distributed import Distributed
from fftnet.training.memory import memory_in_use
from fftnet.training.run_folder import METRICS_FILE, PLOT_FILE
from fftnet.training.state import TrainingState


class Forecast(NamedTuple):
    """Cost of a training step, over all processes."""

    rows: int
    targets: int
    """Number of counted targets."""
    seconds: float
    """Duration of a step without the optimizer, seconds."""


def dry_run(distributed: Distributed, objective: Objective, batch: Batch) -> Forecast:
    """Compute the gradients of one batch twice, time the second, and restore the model."""
    # A forward pass changes buffers only, such as the running statistics of batch normalization.
    buffers = [(buffer, buffer.clone()) for buffer in distributed.raw_model.buffers()]
    # The first pass compiles kernels and allocates memory, which the measured one should not include.
    distributed.accumulate(objective, batch)
    start = time.perf_counter()
    (_, count), _ = distributed.accumulate(objective, batch)
    seconds = time.perf_counter() - start
    distributed.optimizer.zero_grad(set_to_none=True)
    for buffer, value in buffers:
        buffer.copy_(value)
    # All processes must know the same duration, because it decides when they evaluate.
    return Forecast(batch.num_rows, max(int(count), 1), max(distributed.all_gather(seconds)))


def run_summary(
    distributed: Distributed, forecast: Forecast, steps: int, train: Batches, valid: Batches, unit: str
) -> Iterator[str]:
    """Yield lines that describe a run before it starts: model, steps, time, memory."""
    yield model_summary(distributed.raw_model)
    epochs = steps / train.num_batches
    yield (
        f"{steps:,} steps of about {forecast.targets:,} {unit}, {steps * forecast.targets:,} in all: "
        f"{epochs:.3g} epochs of {train.num_batches:,} batches; {valid.num_batches:,} to validate"
    )
    wanted = distributed.world * distributed.accumulation_steps
    if forecast.rows < wanted:
        yield f"batches of {forecast.rows} rows leave some of {wanted} micro-batches empty: raise batch_size"
    device = distributed.device.type
    where = f"{distributed.world} x {device}" if distributed.world > 1 else device
    # AdamW adds two moments of 4 bytes per weight at the first step.
    moments = 8 * _count(distributed.model) // distributed.model_shards
    yield (
        f"about {_duration(steps * forecast.seconds)} on {where} in {distributed.precision}, "
        f"{forecast.targets / forecast.seconds:,.0f} {unit}/s, "
        f"{(memory_in_use(distributed.device) + moments) / 1e9:.2f} GB of memory"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def model_summary(model: nn.Module) -> str:
    """Return parameter counts: ``1,234 parameters (embedding 34; 4 layers of 300: mixer 200, norm 100)``."""
    named = []
    for name, part in _parts(model):
        count = _count(part)
        # Equal layers are described once.
        if isinstance(part, nn.ModuleList) and len(part) and _count(part[0]) * len(part) == count:
            inner = ", ".join(
                f"{key} {_count(sub):,}" for key, sub in part[0].named_children() if _count(sub)
            )
            named.append(f"{len(part)} {name} of {_count(part[0]):,}: {inner}")
        elif count:
            named.append(f"{name} {count:,}")
    return f"{_count(model):,} parameters ({'; '.join(named)})"


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children of a model; a child that holds a list of layers is replaced by its children."""
    for name, part in model.named_children():
        if any(isinstance(child, nn.ModuleList) for child in part.children()):
            yield from _parts(part)
        else:
            yield name, part


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def listed(values: Mapping[str, float | None]) -> str:
    """Return the values that are not None as ``loss 1.234, bits per byte 0.567``."""
    known = {name.replace("_", " "): value for name, value in values.items() if value is not None}
    return ", ".join(f"{name} {value:.3f}" for name, value in known.items())


def evaluation_line(
    step: int, losses: Mapping[str, float], further: Mapping[str, float | None], speed: str
) -> str:
    """Describe an evaluation in 80 characters; further values, and last the speed, are shown if they fit."""
    line = f"step {step}: {listed(losses)}"
    parts = [listed({name: value}) for name, value in further.items() if value is not None]
    for part in (*parts, speed):
        if len(line) + len(part) + 2 <= 80:
            line += f", {part}"
    return line


@contextmanager
def paused(bar: tqdm) -> Iterator[None]:
    """Exclude the duration of a block from the rate of a progress bar."""
    started = time.time()
    yield
    # tqdm computes the rate from the time of its last update.
    if not bar.disable:
        bar.last_print_t += time.time() - started


def write_results(
    folder: Path, state: TrainingState, metadata: RunMetadata, distributed: Distributed, unit: str
) -> None:
    """Write the history of a run, with its last and best evaluation, as JSON and as a plot."""
    values = {
        "final": state.history[-1],
        "best": state.best,
        "entropy_floor": metadata.entropy_floor,
        "parameters": _count(distributed.model),
        "tokens": state.counters.targets,
        "seconds": state.counters.seconds,
        "processes": distributed.world,
        "threads": torch.get_num_threads(),
        "precision": distributed.precision,
        "history": state.history,
    }
    serialization.write_json(folder / METRICS_FILE, values)
    plot = folder / PLOT_FILE
    with serialization.writing(plot):
        plot_losses(state.history, metadata.entropy_floor, plot, unit, state.logged)
