"""The suites: what is compared in which cases. A new one is a function and a line in the table."""

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
        running = {name: run for name, run in make(batch, tokens).items() if name not in stopped}
        times = paired(running, time_budget)
        stopped |= {name for name, taken in times.items() if taken[-1] > time_budget.stop}
        yield from rows(suite, work, batch, tokens, times)


def _layers(
    suite: str, cases: Cases, make: Callable[..., baselines.Calls], settings: Settings
) -> Iterator[Row]:
    """Sweep the lengths forward, then forward and backward."""
    for work in (baselines.FORWARD, baselines.BOTH):
        sized = partial(make, settings.width, settings.heads, work=work)
        yield from _sweep(suite, work, cases, sized, settings.time_budget)


def op(settings: Settings) -> Iterator[Row]:
    """The causal operator against its eager version, a linear layer and bare limits."""
    return _layers("op", settings.op, baselines.op, settings)


def mixer(settings: Settings) -> Iterator[Row]:
    """The causal mixer against causal attention."""
    return _layers("mixer", settings.mixer, baselines.mixer, settings)


def bidirectional(settings: Settings) -> Iterator[Row]:
    """The paper's mixer against its eager version, FNet, attention and a bare transform pair."""
    return _layers("bidirectional", settings.bidirectional, encoders.bare, settings)


def encoder(settings: Settings) -> Iterator[dict[str, Any]]:
    """Mixers of encoders with their projections against bidirectional attention with its own."""
    for width, heads, cases in settings.encoder:
        for work in (baselines.FORWARD, baselines.BOTH):
            sized = partial(encoders.mixers, width, heads, work=work)
            for row in _sweep("encoder", work, cases, sized, settings.time_budget):
                yield row.summary() | {"width": width}


def classifier(settings: Settings) -> Iterator[Row]:
    """A training step of a classifier of whole texts, ours in all forms against attention and FNet."""
    keep_freed_memory()
    make = partial(encoders.train, settings.width, settings.heads, settings.layers)
    return _sweep("classifier", baselines.TRAIN, settings.classifier, make, settings.time_budget)


def train(settings: Settings) -> Iterator[Row]:
    """A training step of the language model against a Transformer of equal width."""
    keep_freed_memory()
    make = partial(baselines.train, settings.width, settings.heads, settings.layers)
    return _sweep("train", baselines.TRAIN, settings.train, make, settings.time_budget)


def precision(settings: Settings) -> Iterator[Row]:
    """The same training step with bf16 matrix products, as ``--precision auto`` has it, and in float32."""
    keep_freed_memory()
    make = partial(baselines.precision, settings.width, settings.heads, settings.layers)
    return _sweep("precision", baselines.TRAIN, settings.train, make, settings.time_budget)


def _reader(model: FFTNet, batch: int) -> Callable[[int], State]:
    """Make a function of growing positions that returns the state there, after random tokens."""
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
    """Decode steps at growing positions and in growing batches; all positions take turns in one round."""
    models = {
        side: baselines.language_model(side, settings.width, settings.heads, settings.layers)
        for side in baselines.LANGUAGE_MODELS
    }
    steps = settings.steps
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

    first = settings.positions[0]
    cases = [(1, settings.positions), *((batch, (first,)) for batch in settings.batches if batch > 1)]
    for batch, positions in cases:
        times = paired(calls(batch, positions), settings.time_budget, lambda run: seconds_of(run) / steps)
        for position in positions:
            taken = {side: times[f"{side} {position}"] for side in models}
            found += rows("write", baselines.STEP, batch, position, taken)
    return found


def read(settings: Settings) -> list[dict[str, Any]]:
    """A long text through one model, in a process of its own: growth of memory, size of the state."""
    measured = jobs.run_job(
        read_text,
        width=settings.read_width,
        heads=settings.read_heads,
        layers=settings.layers,
        tokens=settings.read_tokens,
    )
    return [{"suite": "read", "side": OURS, "tokens": settings.read_tokens, **measured}]


def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """Peak memory of mixers and training steps, each in a process of its own."""
    sizes = {"width": settings.width, "heads": settings.heads, "layers": settings.layers}
    limit = settings.attention_memory_tokens
    for of, cases in (("mixer", settings.memory_mixer), ("train", settings.memory_train)):
        for batch, tokens in cases:
            for side in (OURS, baselines.ATTENTION):
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
"""Name to a function that yields ``Row`` or, of what is no time, JSON. They run in this order, since those
with steps of training keep freed memory, as ``fftnet train`` does, and so does the process from then on."""
