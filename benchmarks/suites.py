"""Suites of the benchmark. A new one is a function and an entry of the table."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks import baselines, encoders, jobs
from benchmarks.busy import busy
from benchmarks.measure import OURS, Row, TimeBudget, paired, rows, seconds_of
from benchmarks.memory import CHUNK, peak_of_pass, read_text
from benchmarks.runtimes import runtimes
from benchmarks.settings import Cases, Settings
from fftnet.model.fftnet_model import FFTNet, State
from fftnet.training.memory import keep_freed_memory


def _sweep(
    suite: str,
    work: str,
    cases: Cases,
    make: Callable[[int, int], baselines.Calls],
    time_budget: TimeBudget,
) -> Iterator[Row]:
    stopped: set[str] = set()
    for batch, tokens in cases:
        # Sides that became too slow at a shorter length are left out.
        running = {name: run for name, run in make(batch, tokens).items() if name not in stopped}
        times = paired(running, time_budget)
        stopped |= {name for name, taken in times.items() if taken[-1] > time_budget.stop}
        yield from rows(suite, work, batch, tokens, times)


def _layers(
    suite: str, cases: Cases, make: Callable[..., baselines.Calls], settings: Settings
) -> Iterator[Row]:
    """Measure all lengths forward, then forward and backward."""
    for work in (baselines.FORWARD, baselines.BOTH):
        sized = partial(make, settings.width, settings.heads, work=work)
        yield from _sweep(suite, work, cases, sized, settings.time_budget)


def op(settings: Settings) -> Iterator[Row]:
    """Compare the causal operator with its eager version, a linear layer and lower bounds."""
    return _layers("op", settings.op, baselines.op, settings)


def mixer(settings: Settings) -> Iterator[Row]:
    """Compare the causal mixer with causal attention."""
    return _layers("mixer", settings.mixer, baselines.mixer, settings)


def bidirectional(settings: Settings) -> Iterator[Row]:
    """Compare the paper's mixer with its eager version, FNet, attention and the bare transforms."""
    return _layers("bidirectional", settings.bidirectional, encoders.bare, settings)


def encoder(settings: Settings) -> Iterator[dict[str, Any]]:
    """Compare mixers of encoders with bidirectional attention, all with their projections."""
    for width, heads, cases in settings.encoder:
        for work in (baselines.FORWARD, baselines.BOTH):
            sized = partial(encoders.mixers, width, heads, work=work)
            for row in _sweep("encoder", work, cases, sized, settings.time_budget):
                yield row.summary() | {"width": width}


def classifier(settings: Settings) -> Iterator[Row]:
    """Compare training steps of classifiers: all forms of FFTNet, attention and FNet."""
    keep_freed_memory()
    make = partial(encoders.train, settings.width, settings.heads, settings.layers)
    return _sweep("classifier", baselines.TRAIN, settings.classifier, make, settings.time_budget)


def train(settings: Settings) -> Iterator[Row]:
    """Compare training steps of the language model with a Transformer of equal width."""
    keep_freed_memory()
    make = partial(baselines.train, settings.width, settings.heads, settings.layers)
    return _sweep("train", baselines.TRAIN, settings.train, make, settings.time_budget)


def precision(settings: Settings) -> Iterator[Row]:
    """Compare the same training steps with bf16 and float32 matrix products."""
    keep_freed_memory()
    make = partial(baselines.precision, settings.width, settings.heads, settings.layers)
    return _sweep("precision", baselines.TRAIN, settings.train, make, settings.time_budget)


def _reader(model: FFTNet, batch: int) -> Callable[[int], State]:
    """Make a function of growing positions that returns the state there after random tokens."""
    state = model.init_state(batch)
    done = 0

    def at(position: int) -> State:
        nonlocal state, done
        if position > done:
            tokens_BT = torch.randint(0, baselines.VOCABULARY, (batch, position - done))
            state = model.prefill(tokens_BT, state, chunk_size=CHUNK, logits_to_keep=1)[1]
            done = position
        return state

    return at


@torch.no_grad()
def write(settings: Settings) -> list[Row]:
    """Measure decode steps at growing positions and in growing batches."""
    models = {
        side: baselines.language_model(side, settings.width, settings.heads, settings.layers)
        for side in baselines.LANGUAGE_MODELS
    }
    steps = settings.steps
    # Free places of the KV cache: all steps of all rounds, each run twice.
    room = steps * 2 * (settings.time_budget.rounds + 1)
    found = []

    def calls(batch: int, positions: Sequence[int]) -> dict[str, Callable[[], object]]:
        reader = _reader(models[OURS], batch)
        made = {}
        for position in positions:
            states = {
                OURS: reader(position),
                baselines.ATTENTION: baselines.attention_state(
                    models[baselines.ATTENTION], batch, position, room
                ),
            }
            for side, state in states.items():
                made[f"{side} {position}"] = baselines.decode_steps(models[side], state, batch, steps)
        return made

    # One text at all positions, then several texts at the first position.
    first = settings.positions[0]
    cases = [(1, settings.positions), *((batch, (first,)) for batch in settings.batches if batch > 1)]
    for batch, positions in cases:
        times = paired(calls(batch, positions), settings.time_budget, lambda run: seconds_of(run) / steps)
        for position in positions:
            taken = {side: times[f"{side} {position}"] for side in models}
            found += rows("write", baselines.STEP, batch, position, taken)
    return found


def read(settings: Settings) -> list[dict[str, Any]]:
    """Read a long text in a new process: growth of memory, size of the state."""
    measured = jobs.run_job(
        read_text,
        width=settings.read_width,
        heads=settings.read_heads,
        layers=settings.layers,
        tokens=settings.read_tokens,
    )
    return [{"suite": "read", "side": OURS, "tokens": settings.read_tokens, **measured}]


def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure the peak memory of mixers and training steps, each in a new process."""
    sizes = {"width": settings.width, "heads": settings.heads, "layers": settings.layers}
    limit = settings.attention_memory_tokens
    for of, cases in (("mixer", settings.memory_mixer), ("train", settings.memory_train)):
        for batch, tokens in cases:
            for side in (OURS, baselines.ATTENTION):
                # Attention beyond the limit takes minutes a run.
                if side == OURS or tokens <= limit:
                    case = {"side": side, "batch": batch, "tokens": tokens}
                    measured = jobs.run_job(peak_of_pass, suite=of, **case, **sizes)
                    yield {"suite": "memory", "of": of, **case, **measured}


Suite = Callable[[Settings], Any]
SUITES: dict[str, Suite] = {
    "op": op,
    "mixer": mixer,
    "bidirectional": bidirectional,
    "encoder": encoder,
    "write": write,
    "classifier": classifier,
    "train": train,
    "precision": precision,
    "read": read,
    "memory": memory,
    "busy": busy,
    "runtimes": runtimes,
}
"""Name to a function that yields rows, as ``Row`` or JSON. The order matters: from the first training step
on, the process keeps freed memory, as ``fftnet train`` does."""
