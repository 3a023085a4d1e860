"""Report of the measurements: the targets, met or missed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.baselines import (
    ATTENTION,
    BOTH,
    EAGER,
    FLOAT32,
    FORWARD,
    LINEAR,
    MORE_BINS,
    PAIR,
    PRODUCTS,
    STEP,
    TRAIN,
)
from benchmarks.busy import COMMANDS
from benchmarks.measure import OURS
from benchmarks.runtimes import INT8, ONNX

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Suite to its rows, as JSON."""
Value = tuple[float, float, float]
"""Lower quartile, median, upper quartile; all three alike where there is one number only."""


@dataclass(frozen=True)
class Target:
    """A number that is aimed at."""

    name: str
    value: Callable[[Results], Value | None]
    bound: float
    at_least: bool = True
    unit: str = "x"

    def verdict(self, results: Results) -> tuple[str, str, str]:
        """The measured value with its quartiles, the aim, and whether it is met."""
        aim = f"{'>=' if self.at_least else '<='} {self.bound:g}{self.unit}"
        value = self.value(results)
        if value is None:
            return "", aim, "not measured"
        lower, median, upper = value
        spread = "" if lower == upper else f" ({lower:.3g} - {upper:.3g})"
        met = median >= self.bound if self.at_least else median <= self.bound
        return f"{median:.3g}{self.unit}{spread}", aim, "met" if met else "missed"


def _find(results: Results, suite: str, **fields: object) -> Mapping[str, Any] | None:
    for row in results.get(suite, ()):
        if all(row[name] == value for name, value in fields.items()):
            return row
    return None


def speedup(suite: str, side: str, work: str, batch: int, tokens: int) -> Callable[[Results], Value | None]:
    """Time of the side over our time."""

    def value(results: Results) -> Value | None:
        row = _find(results, suite, side=side, work=work, batch=batch, tokens=tokens)
        if row is None or row["times_ours"] is None:
            return None
        lower, upper = row["times_ours_quartiles"]
        return lower, row["times_ours"], upper

    return value


def slowdown(suite: str, side: str, work: str, batch: int, tokens: int) -> Callable[[Results], Value | None]:
    """Our time over the time of the side."""
    inverse = speedup(suite, side, work, batch, tokens)

    def value(results: Results) -> Value | None:
        found = inverse(results)
        return None if found is None else (1 / found[2], 1 / found[1], 1 / found[0])

    return value


def _more_bins(results: Results) -> Value | None:
    ours = _find(results, "op", side=MORE_BINS, work=BOTH, batch=1, tokens=16384)
    linear = _find(results, "op", side=LINEAR, work=BOTH, batch=1, tokens=16384)
    return None if ours is None or linear is None else (ours["seconds"] / linear["seconds"],) * 3


def _beyond_products(results: Results) -> Value | None:
    share = speedup("mixer", PRODUCTS, BOTH, 1, 4096)(results)
    return None if share is None else (100 - 100 * share[2], 100 - 100 * share[1], 100 - 100 * share[0])


def _steadiness(results: Results) -> Value | None:
    near, far = (
        _find(results, "write", side=OURS, work=STEP, batch=1, tokens=position) for position in (256, 65536)
    )
    return None if near is None or far is None else (near["seconds"] / far["seconds"],) * 3


def _growth(results: Results) -> Value | None:
    row = _find(results, "read", side=OURS)
    return None if row is None else (row["growth_bytes"] / 1e6,) * 3


def _exported_speed(results: Results) -> Value | None:
    """Tokens per second at D = 128 by the faster of the runtimes that need not compile."""
    found = [_find(results, "runtimes", side=side, work=STEP, width=128) for side in (ONNX, INT8)]
    speeds = []
    for row in found:
        if row is not None:
            lower, upper = row["seconds_quartiles"]
            speeds.append((1 / upper, 1 / row["seconds"], 1 / lower))
    return max(speeds, key=lambda speed: speed[1], default=None)


def _busy_slowdown(results: Results) -> Value | None:
    row = _find(results, "busy", side=OURS, work=TRAIN, policy=COMMANDS, neighbour=True)
    if row is None:
        return None
    lower, upper = row["times_quiet_quartiles"]
    return lower, row["times_quiet"], upper


TARGETS = [
    *(
        Target(f"causal op, f+b, B={b} T={t}: eager / ours", speedup("op", EAGER, BOTH, b, t), bound)
        for b, t, bound in ((16, 256, 10), (1, 4096, 40))
    ),
    *(
        Target(
            f"causal op, {short}, B={b} T={t}: ours / linear layer",
            slowdown("op", LINEAR, work, b, t),
            bound,
            at_least=False,
        )
        for short, work, bound in (("forward", FORWARD, 0.5), ("f+b", BOTH, 1))
        for b, t in ((16, 256), (1, 16384), (1, 65536))
    ),
    Target("causal op with 32 bins, f+b, T=16384: ours / linear layer", _more_bins, 1.6, at_least=False),
    *(
        Target(f"causal mixer, f+b, T={t}: attention / ours", speedup("mixer", ATTENTION, BOTH, 1, t), bound)
        for t, bound in ((512, 1.3), (4096, 5), (16384, 16))
    ),
    Target(
        "causal mixer, f+b, T=4096: beyond its own products", _beyond_products, 25, at_least=False, unit=" %"
    ),
    *(
        Target(
            f"bidirectional, f+b, T={t}: eager / ours", speedup("bidirectional", EAGER, BOTH, 1, t), bound=6
        )
        for t in (4096, 16384)
    ),
    *(
        Target(
            f"bidirectional, f+b, T={t}: ours / rfft+irfft",
            slowdown("bidirectional", PAIR, BOTH, 1, t),
            1.5,
            at_least=False,
        )
        for t in (4096, 16384)
    ),
    *(
        Target(f"training step, T={t}: Transformer / ours", speedup("train", ATTENTION, TRAIN, b, t), bound)
        for b, t, bound in ((16, 256, 1.2), (8, 512, 1.5), (1, 4096, 3))
    ),
    *(
        Target(
            f"training step in bf16, T={t}: Transformer / ours",
            speedup("precision", ATTENTION, TRAIN, b, t),
            bound,
        )
        for b, t, bound in ((16, 256, 1.2), (8, 512, 1.5), (1, 4096, 3))
    ),
    Target(
        "training step, T=256: float32 / bf16", speedup("precision", f"{OURS}, {FLOAT32}", TRAIN, 16, 256), 2
    ),
    Target(
        "training step of a classifier, T=4096: attention / ours",
        speedup("classifier", ATTENTION, TRAIN, 1, 4096),
        5,
    ),
    Target("tokens/s at position 65,536 over those at 256", _steadiness, 0.95),
    Target("writing one text in ONNX Runtime, one thread, D=128", _exported_speed, 2500, unit=" tokens/s"),
    Target("reading 1,000,000 tokens: growth of memory", _growth, 300, at_least=False, unit=" MB"),
    Target("training step beside a busy process: busy / quiet", _busy_slowdown, 2.2, at_least=False),
]


def table(results: Results, targets: Sequence[Target] = TARGETS) -> str:
    """The targets as text, one a line, and the size of the state."""
    cells = [(target.name, *target.verdict(results)) for target in targets]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    read = _find(results, "read", side=OURS)
    if read is not None:
        lines.append(
            f"state after {read['tokens']:,} tokens: {read['state_bytes']:,} bytes; "
            f"after 64: {read['state_bytes_at_start']:,}; "
            f"read at {read['tokens'] / read['seconds']:,.0f} tokens/s"
        )
    return "\n".join(lines)
