"""One other process on the same cores: how much slower a training step and a decode step become.

PyTorch's threads wait for each other at the end of every parallel loop. If they spin while they wait, they
keep the cores from a thread that still has work to do and has lost its own core to another process. Whether
they spin is up to OpenMP's environment variables, which are read once; so every case is a process of its own.
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
"""Where tokens are written."""
NEIGHBOUR = """
import os
import sys

print("busy", flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""
"""Keeps one core busy until it is killed, or until the process whose number it is given is not its parent."""

Times = dict[str, list[float]]
"""Work to the seconds of every run."""


def policy_name(variables: Mapping[str, str]) -> str:
    """``NAME=VALUE``, or ``default`` where no variable is set."""
    return " ".join(f"{name}={value}" for name, value in variables.items()) or "default"


POLICIES = {policy_name(chosen): chosen for chosen in ({}, {"OMP_WAIT_POLICY": "PASSIVE"}, WAIT_POLICY)}
"""Name to environment variables: OpenMP's own choice, its only standard one, and that of the commands."""
COMMANDS = policy_name(WAIT_POLICY)
"""The policy that the commands set."""


@contextmanager
def busy_neighbour() -> Iterator[subprocess.Popen[str]]:
    """One process more, in plain Python, that never waits; it may run on any core."""
    command = [sys.executable, "-c", NEIGHBOUR, str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def environment(policy: Mapping[str, str]) -> dict[str, str]:
    """This process's environment variables with this policy in place of any other."""
    others = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    return others | dict(policy)


def _runs(
    run: Callable[[], object], runs: int, clock: Callable[[Callable[[], object]], float]
) -> list[float]:
    """Seconds of so many runs after a warm-up, however long they take."""
    unlimited = TimeBudget(seconds=math.inf, rounds=runs, slow=math.inf, stop=math.inf)
    return paired({"": run}, unlimited, clock)[""]


def measure_steps(side: str, batch: int, tokens: int, train_runs: int, steps: int, decode_runs: int) -> Times:
    """Time training steps and decode steps of the default model in this process.

    Args:
        side: ours, or attention.
        batch: texts in a training step.
        tokens: length of each.
        train_runs: training steps, after one that is not counted.
        steps: decode steps of one text in a run.
        decode_runs: such runs, after one that is not counted.

    Returns:
        Seconds of each training step and, averaged over a run, of a decode step.
    """
    torch.manual_seed(0)
    model = baselines.default_model(side)
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
    """One case as JSON; its ratios are to the median of the same on a quiet machine."""
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
    """Training and decode steps of the default model, quiet and beside a busy process, under each policy."""
    batch, tokens = settings.busy
    shapes = {
        baselines.TRAIN: {"batch": batch, "tokens": tokens},
        baselines.STEP: {"batch": 1, "tokens": POSITION},
    }
    for side in baselines.LANGUAGE_MODELS:
        for name, policy in POLICIES.items():
            quiet = _times(side, policy, settings)
            with busy_neighbour():
                crowded = _times(side, policy, settings)
            for work, shape in shapes.items():
                case = {"side": side, "work": work, "policy": name, **shape}
                yield _row(quiet[work], None, **case)
                yield _row(crowded[work], quiet[work], **case)
