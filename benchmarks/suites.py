"""The suites: which sides are compared in which cases. A new one is a function and a line in the table."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import sides
from benchmarks.measure import OURS, Effort, Row, paired, rows
from benchmarks.memory import CHUNK, run_job
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.mixers.attention import AttentionState
from fftnet.model.state import State

Cases = Sequence[tuple[int, int]]
"""Pairs of batch and length."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of everything."""

    effort: Effort
    width: int = 256
    heads: int = 4
    layers: int = 4
    op: Cases = ((16, 256), (1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536))
    mixer: Cases = ((1, 256), (1, 512), (1, 1024), (1, 4096), (1, 16384))
    bidirectional: Cases = ((1, 256), (1, 1024), (1, 4096), (1, 16384))
    train: Cases = ((16, 256), (8, 512), (4, 1024), (1, 4096))
    """As many tokens in every step."""
    positions: Sequence[int] = (256, 1024, 4096, 16384, 65536)
    """Where a token is written."""
    batches: Sequence[int] = (1, 16, 64)
    """Texts written at once, at the first position."""
    steps: int = 8
    """Decode steps that are timed as one run."""
    read_tokens: int = 1_000_000
    read_width: int = 128
    memory_mixer: Cases = ((1, 4096), (1, 16384))
    memory_train: Cases = ((1, 1024), (1, 4096))
    attention_memory_tokens: int = 16384
    """Memory of attention is measured up to this length: beyond it one run takes minutes."""


QUICK = Settings(effort=Effort(seconds=0.3, slow=2.0, stop=10.0))
FULL = Settings(
    effort=Effort(seconds=3.0, slow=20.0, stop=20.0),
    mixer=tuple((1, 2**n) for n in range(8, 17)),
    bidirectional=((1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536)),
    train=((16, 256), (8, 512), (4, 1024), (2, 2048), (1, 4096), (1, 16384)),
    memory_mixer=((1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536)),
    memory_train=((1, 256), (1, 1024), (1, 4096), (1, 16384)),
)


def _sweep(
    suite: str, work: str, cases: Cases, make: Callable[[int, int], sides.Sides], effort: Effort
) -> Iterator[Row]:
    stopped: set[str] = set()
    for batch, tokens in cases:
        running = {name: run for name, run in make(batch, tokens).items() if name not in stopped}
        times = paired(running, effort)
        stopped |= {name for name, taken in times.items() if taken[-1] > effort.stop}
        yield from rows(suite, work, batch, tokens, times)


def op(settings: Settings) -> Iterator[Row]:
    """The causal operator against its eager version, a linear layer and bare limits."""
    for work in (sides.FORWARD, sides.BOTH):
        yield from _sweep(
            "op",
            work,
            settings.op,
            lambda batch, tokens, work=work: sides.op(settings.width, settings.heads, batch, tokens, work),
            settings.effort,
        )


def mixer(settings: Settings) -> Iterator[Row]:
    """The causal mixer against causal attention."""
    for work in (sides.FORWARD, sides.BOTH):
        yield from _sweep(
            "mixer",
            work,
            settings.mixer,
            lambda batch, tokens, work=work: sides.mixer(settings.width, settings.heads, batch, tokens, work),
            settings.effort,
        )


def bidirectional(settings: Settings) -> Iterator[Row]:
    """The paper's mixer against its eager version, FNet, attention and a bare transform pair."""
    for work in (sides.FORWARD, sides.BOTH):
        yield from _sweep(
            "bidirectional",
            work,
            settings.bidirectional,
            lambda batch, tokens, work=work: sides.bidirectional(
                settings.width, settings.heads, batch, tokens, work
            ),
            settings.effort,
        )


def train(settings: Settings) -> Iterator[Row]:
    """A training step of the language model against a Transformer of equal width."""
    yield from _sweep(
        "train",
        sides.TRAIN,
        settings.train,
        lambda batch, tokens: sides.train(settings.width, settings.heads, settings.layers, batch, tokens),
        settings.effort,
    )


def _reader(model: FFTNet, batch: int) -> Callable[[int], State]:
    """Make a function of growing positions that returns the state there, after random tokens."""
    state, read = model.init_state(batch), 0

    def at(position: int) -> State:
        nonlocal state, read
        if position > read:
            tokens_BT = torch.randint(0, sides.VOCABULARY, (batch, position - read))
            state = model.prefill(tokens_BT, state, chunk_size=CHUNK, logits_to_keep=1)[1]
            read = position
        return state

    return at


def _cached(model: FFTNet, batch: int, position: int, room: int) -> State:
    """A state of attention as after ``position`` tokens, filled directly: reading them would cost O(T^2)."""
    shape = (batch, model.config.num_heads, position + room, model.config.d_model // model.config.num_heads)
    return tuple(
        AttentionState(
            torch.randn(shape),
            torch.randn(shape),
            torch.full((batch,), position),
            torch.full((batch,), position),
        )
        for _ in model.backbone.layers
    )


def _writer(model: FFTNet, state: State, batch: int, steps: int) -> Callable[[], object]:
    token_B: Tensor = torch.randint(0, sides.VOCABULARY, (batch,))

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state = model.step(token_B, state)[1]

    return run


@torch.no_grad()
def write(settings: Settings) -> list[Row]:
    """Decode steps at growing positions and in growing batches; all positions take turns in one round."""
    models = {
        side: sides.language_model(name, settings.width, settings.heads, settings.layers)
        for side, name in sides.LANGUAGE_MODELS.items()
    }
    steps, found = settings.steps, []
    room = steps * (settings.effort.rounds + 1)

    def runs(batch: int, positions: Sequence[int]) -> dict[str, Callable[[], object]]:
        reader, calls = _reader(models[OURS], batch), {}
        for position in positions:
            states = {
                OURS: reader(position),
                sides.ATTENTION: _cached(models[sides.ATTENTION], batch, position, room),
            }
            for side, state in states.items():
                calls[f"{side} {position}"] = _writer(models[side], state, batch, steps)
        return calls

    def clock(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / steps

    first = settings.positions[0]
    cases = [(1, settings.positions), *((batch, (first,)) for batch in settings.batches if batch > 1)]
    for batch, positions in cases:
        times = paired(runs(batch, positions), settings.effort, clock)
        for position in positions:
            taken = {side: times[f"{side} {position}"] for side in models}
            found += rows("write", sides.STEP, batch, position, taken)
    return found


def read(settings: Settings) -> list[dict[str, Any]]:
    """A long text through one model, in a process of its own: growth of memory, size of the state."""
    sizes = {"width": settings.read_width, "heads": settings.heads, "layers": settings.layers}
    tokens = settings.read_tokens
    return [{"suite": "read", "side": OURS, "tokens": tokens} | run_job("read", tokens=tokens, **sizes)]


def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """Peak memory of mixers and training steps, each in a process of its own."""
    sizes = {"width": settings.width, "heads": settings.heads, "layers": settings.layers}
    limit = settings.attention_memory_tokens
    for of, cases in (("mixer", settings.memory_mixer), ("train", settings.memory_train)):
        for batch, tokens in cases:
            for side in (OURS, sides.ATTENTION):
                if side == OURS or tokens <= limit:
                    case = {"side": side, "batch": batch, "tokens": tokens}
                    yield {"suite": "memory", "of": of} | case | run_job("peak", suite=of, **case, **sizes)


Suite = Callable[[Settings], Any]
SUITES: dict[str, Suite] = {
    "op": op,
    "mixer": mixer,
    "bidirectional": bidirectional,
    "train": train,
    "write": write,
    "read": read,
    "memory": memory,
}
"""Name to a function that yields :class:`Row` or, of what is no time, JSON."""
