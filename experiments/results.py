"""Lines of results: one JSON object a run, appended for good, and the facts that a number depends on."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from experiments.errors import ExperimentError

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
"""Where the lines are kept, a file for each experiment."""
CACHE = FOLDER / "cache"
"""Checkpoints and corpora: may be deleted, is never committed."""
IDENTITY = ("experiment", "case", "arm", "configuration", "learning_rate", "weight_decay", "seed")
"""Fields that tell one run from another; the budget is a part of the configuration."""

Line = dict[str, Any]


def key_of(line: Mapping[str, Any]) -> str:
    """Everything that decides a run's result as one string: equal for equal runs."""
    return json.dumps({name: line[name] for name in IDENTITY}, sort_keys=True)


def read(path: Path, say: Callable[[str], None] = print) -> list[Line]:
    """The lines of a file, oldest first; none where there is no file.

    A last line without its end was being written when its process was killed: it is left out.

    Args:
        path: of the JSON lines.
        say: is told of a line that is left out.

    Raises:
        ExperimentError: naming the file that can't be read, or the number of its damaged line.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ExperimentError(f"{path} can't be read: {error.strerror}") from error
    *whole, torn = text.split(b"\n")
    if torn:
        say(f"{path.name}: the last line was cut off while it was written, so its run is left out")
    lines = []
    for number, row in enumerate(whole, start=1):
        try:
            line = json.loads(row)
            key_of(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError(f"{path} is damaged in line {number}: delete or mend that line") from error
        lines.append(line)
    return lines


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Write one line behind the others, on the disk when this returns; a torn last line is cut off before.

    Raises:
        ExperimentError: if the file can't be written.
    """
    row = json.dumps(line, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        # One call of write at the end of the file: processes that share it do not mix their lines.
        with path.open("ab", buffering=0) as file:
            file.write(row)
            os.fsync(file.fileno())
    except OSError as error:
        raise ExperimentError(f"{path} can't be written: {error.strerror}") from error


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(path, whole)


def facts(device: torch.device) -> dict[str, Any]:
    """What a number depends on beside its configuration, without a name of the machine.

    Args:
        device: where the run was done.
    """
    return {
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the sources when this process first asked, with "+" where they differed from it."""
    # New results and reports do not change what is measured.
    changed = ("status", "--porcelain", "--", ":/", ":!/experiments/results", ":!/docs")
    head = _git("rev-parse", "HEAD")
    return f"{head}{'+' if head and _git(*changed) else ''}" or "unknown"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=FOLDER, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name as the system gives it, or its architecture."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for row in path.read_text().splitlines():
            name, _, value = row.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
