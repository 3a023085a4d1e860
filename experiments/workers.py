"""Execution of the missing runs of an experiment, by one process or by several that share them."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from experiments import results
from experiments.base import FINISHED, Experiment, Run
from fftnet.training.memory import keep_freed_memory

WAIT = 2.0
"""Time until a process looks again while others work on all missing runs, in seconds."""
TAKEN = "taken"
"""Folder of the locks in the cache folder. The system releases a lock when its process ends."""


def work(experiment: Experiment, path: Path, say: Callable[[str], None]) -> None:
    """Do one missing run after the other and append its line.

    Args:
        experiment: experiment with its workbench.
        path: result file.
        say: function that reports progress.
    """
    # Asked now: the sources may have changed when the first run is over.
    results.commit()
    keep_freed_memory()
    for run in missing(experiment, path, say):
        case = f" on {run.case}" if run.case else ""
        choice = f"lr {run.learning_rate:g}, weight decay {run.weight_decay:g}, seed {run.seed}"
        say(f"{experiment.name}: {run.arm}{case}, {choice}")
        start = time.perf_counter()
        found = experiment.execute(run)
        # A run that was resumed from its checkpoint has trained longer than this process.
        seconds = max(time.perf_counter() - start, found["results"].get("training_seconds", 0.0))
        seconds = round(seconds, 2)
        environment = results.environment(experiment.workbench.device)
        line = asdict(run) | environment | {"seconds": seconds} | found
        results.append(path, line)
        score = f", score {experiment.score(line):.4f}" if found["outcome"] == FINISHED else ""
        say(f"  {found['outcome']} in {seconds:.0f} s{score}")


def missing(experiment: Experiment, path: Path, say: Callable[[str], None]) -> Generator[Run, None, None]:
    """Yield the missing runs, each locked for this process until the next one is asked for.

    Args:
        experiment: experiment with its deadline.
        path: result file, which other processes may write, too.
        say: function that reports a line that is left out.
    """
    folder = experiment.workbench.cache / TAKEN
    folder.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < experiment.workbench.deadline:
        runs = list(experiment.plan(results.read(path, say)))
        if not runs:
            return
        for run in runs:
            # One lock for each run, held while it works; it is free again if the process dies.
            lock = FileLock(folder / f"{run.experiment}-{run.digest}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                # Another process may have finished it since the lines were read.
                done = {results.key_of(line) for line in results.read(path, say)}
                if results.key_of(asdict(run)) not in done:
                    yield run
            finally:
                lock.release()
            # Plan again after each run: its result may decide the next one.
            break
        else:
            # All missing runs are locked by others, whose results may make new runs necessary.
            time.sleep(WAIT)


def share(count: int, words: Sequence[str]) -> int:
    """Run the same command in several processes and wait for all.

    Args:
        count: number of processes.
        words: command line, without the flag that asked for them.

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
