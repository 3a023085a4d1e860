"""Slowdown of a training step and of a decode step when another process runs on the same cores.

PyTorch's threads wait for each other at the end of every parallel loop. Threads that spin while they wait
keep the cores from a thread that lost its own core to another process. OpenMP's environment variables decide
whether they spin. They are read once, so every case runs in a new process.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import baselines, jobs
from benchmarks.measure import TimeBudget, paired, quartiles, seconds_of
from benchmarks.settings import Settings
from fftnet.wait_policy import WAIT_POLICY, WAIT_VARIABLES

POSITION = 256
"""Context length at which tokens are decoded."""
NEIGHBOUR = """
import os
import sys

print("busy", flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""
"""Program that keeps one core busy until it is killed, or until its parent process has ended."""

Times = dict[str, list[float]]
"""Kind of work to the seconds of every run."""


def policy_name(variables: Mapping[str, str]) -> str:
    """Return ``NAME=VALUE``, or ``default`` if no variable is set."""
    return " ".join(f"{name}={value}" for name, value in variables.items()) or "default"


POLICIES = {policy_name(chosen): chosen for chosen in ({}, {"OMP_WAIT_POLICY": "PASSIVE"}, WAIT_POLICY)}
"""Name to environment variables: OpenMP's default, its standard variable, and the policy of the commands."""


@contextmanager
def busy_neighbour() -> Iterator[subprocess.Popen[str]]:
    """Run another process, in plain Python, that never waits, on any core."""
    command = [sys.executable, "-c", NEIGHBOUR, str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            # The first line says that the process has started and is busy.
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def environment(policy: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of this process with this policy instead of any other."""
    # Only one policy may be set: OpenMP's variables override each other.
    others = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    return others | dict(policy)


def _runs(
    run: Callable[[], object], runs: int, clock: Callable[[Callable[[], object]], float]
) -> list[float]:
    """Return the seconds of each run after a warm-up, however long they take."""
    # No time limit: every case has the same number of runs.
    unlimited = TimeBudget(seconds=math.inf, rounds=runs, slow=math.inf, stop=math.inf)
    return paired({"": run}, unlimited, clock)[""]


def measure_steps(side: str, batch: int, tokens: int, train_runs: int, steps: int, decode_runs: int) -> Times:
    """Time training steps and decode steps of the default model in this process.

    Args:
        side: FFTNet or attention.
        batch: texts of a training step.
        tokens: length of each.
        train_runs: training steps after a warm-up.
        steps: decode steps of one text in a run.
        decode_runs: runs after a warm-up.

    Returns:
        Seconds of each training step and, averaged over a run, of a decode step.
    """
    torch.manual_seed(0)
    model = baselines.default_model(side)
    # One model in one process for both, as in a session of a user.
    train = _runs(baselines.train_step(model, batch, tokens), train_runs, seconds_of)
    with torch.no_grad():
        tokens_BT = torch.randint(0, baselines.VOCABULARY, (1, POSITION))
        state = model.prefill(tokens_BT, logits_to_keep=1)[1]
    decode = _runs(
        baselines.decode_steps(model, state, 1, steps), decode_runs, lambda run: seconds_of(run) / steps
    )
    return {baselines.TRAIN: train, baselines.STEP: decode}


def _times(side: str, policy: Mapping[str, str], settings: Settings) -> Times:
    batch, tokens = settings.busy
    return jobs.run_job(
        measure_steps,
        environment(policy),
        side=side,
        batch=batch,
        tokens=tokens,
        train_runs=settings.busy_train_runs,
        steps=settings.steps,
        decode_runs=settings.busy_decode_runs,
    )


def _row(seconds: Sequence[float], quiet: Sequence[float] | None, **case: object) -> dict[str, Any]:
    """Return one case as JSON, with its ratios to the median of the same work on a quiet machine."""
    lower, median, upper = quartiles(seconds)
    row = {
        "suite": "busy",
        **case,
        "neighbour": quiet is not None,
        "runs": len(seconds),
        "seconds": median,
        "seconds_quartiles": [lower, upper],
        "times_quiet": None,
        "times_quiet_quartiles": None,
    }
    if quiet is not None:
        base = quartiles(quiet)[1]
        row |= {"times_quiet": median / base, "times_quiet_quartiles": [lower / base, upper / base]}
    return row


def busy(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time the default model's steps, quiet and next to a busy process, under each policy."""
    batch, tokens = settings.busy
    shapes = {
        baselines.TRAIN: {"batch": batch, "tokens": tokens},
        baselines.STEP: {"batch": 1, "tokens": POSITION},
    }
    for side in baselines.LANGUAGE_MODELS:
        for name, policy in POLICIES.items():
            # First without the neighbour: the base of the ratios.
            quiet = _times(side, policy, settings)
            with busy_neighbour():
                crowded = _times(side, policy, settings)
            for work, shape in shapes.items():
                case = {"side": side, "work": work, "policy": name, **shape}
                yield _row(quiet[work], None, **case)
                yield _row(crowded[work], quiet[work], **case)
