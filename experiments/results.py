"""Result lines: one JSON object per run, appended to a file, with the environment that it was measured in."""

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

from fftnet.errors import UserError

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
"""Folder of the result files, one for each experiment."""
CACHE = FOLDER / "cache"
"""Folder of checkpoints and corpora. It may be deleted and is never committed."""
IDENTITY = ("experiment", "case", "arm", "configuration", "learning_rate", "weight_decay", "seed")
"""Keys of a line that tell one run from another. The key "arm" holds the name of the model."""

Line = dict[str, Any]


class ExperimentError(UserError):
    """An error that a user of the experiments can fix: a name, a file, a corpus, sizes that do not fit."""


def key_of(line: Mapping[str, Any]) -> str:
    """Return everything that decides a run's result as one string, equal for equal runs."""
    return json.dumps({name: line[name] for name in IDENTITY}, sort_keys=True)


def read(path: Path, say: Callable[[str], None] = print) -> list[Line]:
    """Return the lines of a result file, oldest first, or an empty list if there is no file.

    A last line without a line break was cut off when its process was killed. It is left out.

    Args:
        path: file of JSON lines.
        say: function that reports a line that is left out.

    Raises:
        ExperimentError: if the file can't be read, or a line is damaged.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ExperimentError(f"{path} can't be read: {error.strerror}") from error
    # Every finished line ends with a line break, so the last part is empty or cut off.
    *whole, torn = text.split(b"\n")
    if torn:
        say(f"{path.name}: the last line was cut off while it was written, so its run is left out")
    lines = []
    for number, row in enumerate(whole, start=1):
        try:
            line = json.loads(row)
            # Fails if a key is missing.
            key_of(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError(
                f"{path} is damaged in line {number}: delete or repair that line"
            ) from error
        lines.append(line)
    return lines


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line and flush it to disk. A cut-off last line is removed first.

    Raises:
        ExperimentError: if the file can't be written.
    """
    # Without NaN, which is not JSON: a diverged run has no results.
    row = json.dumps(line, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            text = path.read_bytes()
            # A cut-off line would join with the new one.
            os.truncate(path, text.rfind(b"\n") + 1)
        # One call of write at the end of the file: processes that share it do not mix their lines.
        with path.open("ab", buffering=0) as file:
            file.write(row)
            os.fsync(file.fileno())
    except OSError as error:
        raise ExperimentError(f"{path} can't be written: {error.strerror}") from error


def environment(device: torch.device) -> dict[str, Any]:
    """Return the commit, hardware and versions that a number depends on, without a name of the machine.

    Args:
        device: device of the run.
    """
    return {
        "commit": commit(),
        "threads": torch.get_num_threads(),
        # The type of the hardware decides the time, not its name in a network.
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the commit of the sources at the first call, with "+" if they differ from it."""
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
    """Return the processor's name as the system gives it, or its architecture."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for row in path.read_text().splitlines():
            name, _, value = row.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
