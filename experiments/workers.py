"""Several processes that share the runs of an experiment: each takes what no other one has taken."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from experiments import results
from experiments.base import Experiment, Run

WAIT = 2.0
"""Seconds until a process looks again, while others work on all that is wanted."""
TAKEN = "taken"
"""Folder of the locks, in the cache folder; the system opens a lock when its process ends."""


def wanted(experiment: Experiment, path: Path, say: Callable[[str], None]) -> Generator[Run, None, None]:
    """The runs that are still wanted, each held by this process alone until the next one is asked for.

    Args:
        experiment: with its deadline.
        path: of its lines, which others may write, too.
        say: is told of a line that is left out.
    """
    folder = experiment.workbench.cache / TAKEN
    folder.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < experiment.workbench.deadline:
        runs = list(experiment.plan(results.read(path, say)))
        if not runs:
            return
        for run in runs:
            lock = FileLock(folder / f"{run.experiment}-{run.digest}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                # Whoever held it before may have done it since the lines were read.
                done = {results.key_of(line) for line in results.read(path, say)}
                if results.key_of(asdict(run)) not in done:
                    yield run
            finally:
                lock.release()
            break
        else:
            time.sleep(WAIT)


def share(count: int, words: Sequence[str]) -> int:
    """Run the same command in so many processes and wait for all.

    Args:
        count: processes.
        words: of the command line, without the flag that asked for them.

    Returns:
        The largest exit status.
    """
    command = [sys.executable, "-m", "experiments", *words]
    started = [subprocess.Popen(command) for _ in range(count)]
    try:
        return max(process.wait() for process in started)
    finally:
        for process in started:
            process.terminate()
