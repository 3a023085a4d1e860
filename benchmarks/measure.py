"""How it is measured: all sides in one process, in turn, medians with quartiles."""

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BRIEF = 0.1
"""A side is brief if its first run takes less than so many seconds."""
OURS = "ours"
"""The side that every ratio is taken against."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a comparison may take."""

    seconds: float
    """A side that has run three times leaves the rounds once it has taken so many seconds."""
    rounds: int = 30
    """Rounds at most."""
    slow: float
    """A side whose warm-up takes longer than so many seconds is not run again: the warm-up counts."""
    stop: float
    """A side whose last run took longer than so many seconds is left out at greater lengths."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of every run of one side in one case."""

    suite: str
    side: str
    work: str
    batch: int
    tokens: int
    """Length T, or the position of the token that is written."""
    seconds: tuple[float, ...]
    times_ours: tuple[float, float, float] | None
    """Time of this side over our time: lower quartile, median, upper quartile; None for our own."""

    def summary(self) -> dict[str, Any]:
        """The row as JSON: quartiles in place of the single runs."""
        lower, median, upper = quartiles(self.seconds)
        return {
            "suite": self.suite,
            "side": self.side,
            "work": self.work,
            "batch": self.batch,
            "tokens": self.tokens,
            "runs": len(self.seconds),
            "seconds": median,
            "seconds_quartiles": [lower, upper],
            "times_ours": None if self.times_ours is None else self.times_ours[1],
            "times_ours_quartiles": None if self.times_ours is None else list(self.times_ours[::2]),
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return lower, median, upper


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def paired(
    sides: Mapping[str, Callable[[], object]],
    effort: Effort,
    clock: Callable[[Callable[[], object]], float] = seconds_of,
) -> dict[str, list[float]]:
    """Run the sides in turn, each round in the opposite order of the one before.

    So whatever else the machine does falls on all of them alike, and the ratio within a round is worth more
    than a ratio of times that were taken apart. A brief side runs once before its clock starts, or it would
    pay for the caches that its neighbour has emptied.

    Args:
        sides: name to call.
        effort: when to stop.
        clock: seconds of one call.

    Returns:
        Name to the seconds of each round from the first; a slow side has one, its warm-up.
    """
    times: dict[str, list[float]] = {}
    gc.collect()
    gc.disable()
    try:
        brief = set()
        for name, run in sides.items():
            start = time.perf_counter()
            warm_up = clock(run)
            times[name] = [warm_up] if warm_up > effort.slow else []
            brief |= {name} if time.perf_counter() - start < BRIEF else set()
        spent = {name: 0.0 for name, taken in times.items() if not taken}
        order = list(spent)
        for done in range(effort.rounds):
            for name in order:
                start = time.perf_counter()
                if name in brief:
                    sides[name]()
                times[name].append(clock(sides[name]))
                spent[name] += time.perf_counter() - start
            order = [name for name in reversed(order) if done < 2 or spent[name] < effort.seconds]
    finally:
        gc.enable()
    return times


def ratios(over: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of ``over / ours`` in the rounds that both ran; a warm-up is taken against our median."""
    if min(len(over), len(ours)) == 1:
        return quartiles([value / quartiles(ours)[1] for value in over])
    return quartiles([value / mine for value, mine in zip(over, ours, strict=False)])


def rows(suite: str, work: str, batch: int, tokens: int, times: Mapping[str, Sequence[float]]) -> list[Row]:
    """One row for each side, with its ratio to ours."""
    ours = times.get(OURS)
    return [
        Row(
            suite=suite,
            side=name,
            work=work,
            batch=batch,
            tokens=tokens,
            seconds=tuple(taken),
            times_ours=None if name == OURS or ours is None else ratios(taken, ours),
        )
        for name, taken in times.items()
    ]


def machine() -> dict[str, Any]:
    """What the numbers depend on, without a name of the machine."""
    return {
        "processor": platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
