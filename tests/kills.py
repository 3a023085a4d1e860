"""Kill and resume small runs, and print a report as JSON. Run by test_faults.py."""

import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
from safetensors.torch import save_file

from fftnet import serialization
from fftnet.training import state as training_state
from fftnet.training.checkpointer import Checkpointer
from fftnet.training.manifest import verify
from fftnet.training.sharding import Carried
from fftnet.training.state import TrainingState

STEPS = 8
FLAGS = (
    "--d_model 16 --num_heads 4 --num_layers 1 --max_seq_length 160 --num_samples 16 --batch_size 4 "
    f"--pattern_complexity 0 --dropout 0.1 --max_steps {STEPS} --eval_every 4 --save_every 1 --no_progress "
    "--trackers none --ema_decay 0.9 --resume auto"
)


def start(output: Path, prepare: Callable[[], None] = lambda: None, flags: str = "") -> int:
    words = ["train", *FLAGS.split(), "--output_dir", str(output), *flags.split()]
    log = output.with_suffix(".log")
    return forks.start(words, log, log, prepare)


def wait(child: int, doomed: Callable[[], bool] = lambda: False) -> int:
    """Return the exit status of a child; kill it as soon as ``doomed`` returns true."""
    while not doomed():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(output: Path) -> list[str]:
    """Return everything that must be equal: digests of weights and training state, losses and texts."""
    last = output / f"step-{STEPS:08d}"
    verify(last)
    history = json.loads((last / "training.json").read_text())["state"]["history"]
    digests = [
        hashlib.sha256((last / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "training.safetensors")
    ]
    return [
        *digests,
        *(f"{row['step']} {row['train_loss']} {row['loss']} {row['sample']}" for row in history),
    ]


def kill_at_call(place: Any, name: str, number: int) -> Callable[[], None]:
    """Kill a child at the start of the n-th call of a function."""

    def prepare() -> None:
        real = getattr(place, name)
        calls = 0

        def dying(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(place, name, dying)

    return prepare


def kill_in_file(number: int) -> Callable[[], None]:
    """Kill a child when half of the n-th file of tensors is written."""

    def prepare() -> None:
        calls = 0

        def dying(tensors: Any, path: Path) -> None:
            nonlocal calls
            calls += 1
            save_file(tensors, path)
            if calls == number:
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        serialization.save_file = dying

    return prepare


def at_random(folder: Path, seed: int, wanted: int) -> dict[str, Any]:
    """Kill at random instants; compare a run that ends before it is killed, and start another.

    An instant is a random time after a random number of further checkpoints, so that the kills fall into the
    start of a run and into its steps and writes, however fast the machine is.
    """
    rng = random.Random(seed)
    assert wait(start(folder / "whole")) == 0
    whole = result(folder / "whole")
    kills = 0
    at = []
    ended = []
    output = folder / "chain"

    def reached() -> int:
        return max((int(path.name[5:13]) for path in output.glob("step-*")), default=0)

    def instant() -> Callable[[], bool]:
        wanted_step = reached() + rng.randrange(5)
        due = math.inf

        def come() -> bool:
            nonlocal due
            if due == math.inf and reached() >= wanted_step:
                due = time.monotonic() + rng.uniform(0.0, 0.3)
            return time.monotonic() >= due

        return come

    while kills < wanted or output.exists():
        going_on = kills < wanted and reached() < STEPS
        code = wait(start(output), instant() if going_on else lambda: False)
        assert code in (0, -signal.SIGKILL), output.with_suffix(".log").read_text()
        kills += code != 0
        at.append(reached())
        if code == 0:
            ended.append(result(output) == whole)
            shutil.rmtree(output)
    return {"kills": kills, "at": at, "equal": ended}


def in_a_write(folder: Path) -> dict[str, Any]:
    """Kill at every kind of moment in the writing of a checkpoint; then finish the run."""
    assert wait(start(folder / "whole")) == 0
    whole = result(folder / "whole")
    moments = {f"file {n}": kill_in_file(n) for n in (1, 6)}
    moments |= {f"flush {n}": kill_at_call(os, "fsync", n) for n in (1, 9, 10)}
    moments |= {f"rename {n}": kill_at_call(Path, "rename", n) for n in (1, 2)}
    moments |= {f"link {n}": kill_at_call(Path, "symlink_to", n) for n in (1, 3)}
    moments |= {f"delete {n}": kill_at_call(shutil, "rmtree", n) for n in (2,)}
    report: dict[str, Any] = {}
    for name, prepare in moments.items():
        output = folder / name.replace(" ", "-")
        killed = wait(start(output, prepare))
        ended = wait(start(output))
        leftovers = [path.name for path in output.glob("*.tmp")]
        report[name] = [killed == -signal.SIGKILL, ended == 0 and result(output) == whole, leftovers]
    return report


def without_generators(folder: Path) -> dict[str, Any]:
    """Control experiment: a run that forgets its random generators must not end equal."""

    def forget() -> None:
        training_state.set_random_state = lambda *arguments: None

    def die_late() -> None:
        real = Checkpointer.save

        def save(self: Checkpointer, state: TrainingState, carried: Carried | None = None) -> None:
            real(self, state, carried)
            if state.counters.steps == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpointer.save = save

    assert wait(start(folder / "whole")) == 0
    report = {}
    for name, prepare in (("kept", lambda: None), ("forgotten", forget)):
        assert wait(start(folder / name, die_late)) == -signal.SIGKILL
        assert wait(start(folder / name, prepare)) == 0
        report[name] = result(folder / name) == result(folder / "whole")
    return report


def with_small_files(folder: Path) -> dict[str, Any]:
    """Resume a run under a limit on file sizes, and then without."""
    flags = "--schedule wsd --save_every 100 --max_steps"
    output = folder / "outputs"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    begun = wait(start(output, flags=f"{flags} 4"))
    limited = wait(start(output, limit, f"{flags} 8"))
    verify(output / "step-00000004")
    kept = sorted(path.name for path in output.glob("step-*"))
    ended = wait(start(output, flags=f"{flags} 8"))
    verify(output / "step-00000008")
    return {"codes": [begun, limited, ended], "kept": kept, "log": output.with_suffix(".log").read_text()}


if __name__ == "__main__":
    what, folder, *numbers = sys.argv[1:]
    modes = {
        "random": at_random,
        "write": in_a_write,
        "control": without_generators,
        "limit": with_small_files,
    }
    print(json.dumps(modes[what](Path(folder), *map(int, numbers))))
