"""Measurement: all sides in one process, in turn, medians with quartiles."""

import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fftnet.wait_policy import WAIT_VARIABLES

WARM_CACHE = 0.1
"""Duration in seconds below which a call is timed with a warm cache."""
OURS = "ours"
"""Side that every ratio is taken against: FFTNet. All others are baselines."""


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """Limits of the time of a comparison."""

    seconds: float
    """Time after which a side that has run three times is not run again, in seconds."""
    rounds: int = 30
    """Largest number of rounds."""
    slow: float
    """Duration in seconds above which a side runs twice only; the second run counts."""
    stop: float
    """Duration in seconds above which a side is left out at greater lengths."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Measurement of one side in one case."""

    suite: str
    side: str
    """FFTNet, or a baseline."""
    work: str
    batch: int
    tokens: int
    """Length T, or the position of a decoded token."""
    seconds: tuple[float, ...]
    times_ours: tuple[float, float, float] | None
    """Time of this side over FFTNet's time: lower quartile, median, upper quartile (None for FFTNet)."""

    def summary(self) -> dict[str, Any]:
        """Return the row as JSON, with quartiles instead of the single runs."""
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
    """Return lower quartile, median and upper quartile."""
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return lower, median, upper


def seconds_of(run: Callable[[], object]) -> float:
    """Return the wall time of one call, in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def settled_heap() -> Iterator[None]:
    """Let garbage collection ignore existing objects; looking at all imports takes 0.2 s each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def paired(
    calls: Mapping[str, Callable[[], object]],
    time_budget: TimeBudget,
    clock: Callable[[Callable[[], object]], float] = seconds_of,
) -> dict[str, list[float]]:
    """Run the sides in turn, each round in the opposite order of the round before.

    So other load on the machine slows all sides alike, and ratios within a round are more reliable than
    ratios of separate measurements.

    Args:
        calls: side to its call.
        time_budget: limits of the time.
        clock: function that returns the seconds of one call.

    Returns:
        Side to the seconds of each round; a slow side has one.
    """
    gc.collect()
    # A collection in the middle of a call would count as its time.
    gc.disable()
    try:
        times, warm_cache = _warm_up(calls, time_budget, clock)
        spent = {name: 0.0 for name, taken in times.items() if not taken}
        order = list(spent)
        for done in range(time_budget.rounds):
            for name in order:
                # A short call runs once before its clock starts, because the other sides have emptied the
                # caches.
                start = time.perf_counter()
                if name in warm_cache:
                    calls[name]()
                times[name].append(clock(calls[name]))
                spent[name] += time.perf_counter() - start
            # Every side runs at least three times; then it leaves when its time is used up.
            order = [name for name in reversed(order) if done < 2 or spent[name] < time_budget.seconds]
    finally:
        gc.enable()
    return times


def _warm_up(
    calls: Mapping[str, Callable[[], object]],
    time_budget: TimeBudget,
    clock: Callable[[Callable[[], object]], float],
) -> tuple[dict[str, list[float]], set[str]]:
    """Call each side; return the times that count, and the sides to be timed with a warm cache."""
    times: dict[str, list[float]] = {}
    warm_cache: set[str] = set()
    for name, run in calls.items():
        start = time.perf_counter()
        seconds = clock(run)
        if seconds > time_budget.slow:
            # The first call may have compiled kernels.
            seconds = clock(run)
        # A slow side has its only measurement already.
        times[name] = [seconds] if seconds > time_budget.slow else []
        if time.perf_counter() - start < WARM_CACHE:
            warm_cache.add(name)
    return times, warm_cache


def ratios(over: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Return quartiles of ``over / ours`` over common rounds, or of a single run over our median."""
    # A slow side has a single run, which has no partner in a round.
    if min(len(over), len(ours)) == 1:
        return quartiles([value / quartiles(ours)[1] for value in over])
    return quartiles([value / mine for value, mine in zip(over, ours, strict=False)])


def rows(suite: str, work: str, batch: int, tokens: int, times: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row for each side, with its ratio to FFTNet."""
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
    """Return hardware and versions that the numbers depend on, without a name of the machine."""
    return {
        "processor": platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "wait_policy": {name: os.environ[name] for name in WAIT_VARIABLES if name in os.environ},
    }
