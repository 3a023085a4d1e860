"""How it is measured: ours and the baselines in one process, in turn, medians with quartiles."""

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
"""A call that takes less than so many seconds at first is timed with a warm cache."""
OURS = "ours"
"""The side that every ratio is taken against; all others are baselines."""


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """How long a comparison may take."""

    seconds: float
    """A side that has run three times leaves the rounds once it has taken so many seconds."""
    rounds: int = 30
    """Rounds at most."""
    slow: float
    """A side that takes longer than so many seconds, twice, is not run again: the second time counts."""
    stop: float
    """A side whose last run took longer than so many seconds is left out at greater lengths."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of every run of one side in one case."""

    suite: str
    side: str
    """Ours, or a baseline."""
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


@contextmanager
def settled_heap() -> Iterator[None]:
    """Make later collections look at later objects only: all the imports would take 0.2 s each time."""
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
    """Run the sides in turn, each round in the opposite order of the one before.

    So whatever else the machine does falls on all of them alike, and the ratio within a round is worth more
    than a ratio of times that were taken apart. A short call runs once before its clock starts, or it would
    pay for the caches that its neighbour has emptied.

    Args:
        calls: side to what it does.
        time_budget: when to stop.
        clock: seconds of one call.

    Returns:
        Side to the seconds of each round from the first; a slow side has one.
    """
    gc.collect()
    gc.disable()
    try:
        times, warm_cache = _warm_up(calls, time_budget, clock)
        spent = {name: 0.0 for name, taken in times.items() if not taken}
        order = list(spent)
        for done in range(time_budget.rounds):
            for name in order:
                start = time.perf_counter()
                if name in warm_cache:
                    calls[name]()
                times[name].append(clock(calls[name]))
                spent[name] += time.perf_counter() - start
            order = [name for name in reversed(order) if done < 2 or spent[name] < time_budget.seconds]
    finally:
        gc.enable()
    return times


def _warm_up(
    calls: Mapping[str, Callable[[], object]],
    time_budget: TimeBudget,
    clock: Callable[[Callable[[], object]], float],
) -> tuple[dict[str, list[float]], set[str]]:
    """Call each side; returns the times that count, and who is to be timed with a warm cache."""
    times: dict[str, list[float]] = {}
    warm_cache: set[str] = set()
    for name, run in calls.items():
        start = time.perf_counter()
        seconds = clock(run)
        if seconds > time_budget.slow:
            # The first call may have compiled kernels.
            seconds = clock(run)
        times[name] = [seconds] if seconds > time_budget.slow else []
        if time.perf_counter() - start < WARM_CACHE:
            warm_cache.add(name)
    return times, warm_cache


def ratios(over: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of ``over / ours`` in the rounds that both ran; a single run is taken against our median."""
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
    """Facts that the numbers depend on, without a name of the machine."""
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
