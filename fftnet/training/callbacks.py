"""Facts about a run that the trainer is told, and functions that it calls on the way."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True, kw_only=True)
class RunMetadata:
    """Facts about a run that are known before it starts."""

    entropy_floor: float | None = None
    """The lowest validation loss that is possible, where it is known."""
    fingerprint: Any = None
    """JSON-able description of model and data; resuming a run with another one is refused."""


def write_line(line: str) -> None:
    """Write a line to stderr, above a progress bar where there is one."""
    tqdm.write(line, file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that a run calls, on its first process only."""

    save_files: Callable[[Path], None] = lambda folder: None
    """Writes what belongs into a checkpoint beside the weights, into the folder it is given."""
    check_files: Callable[[Path], str | None] = lambda folder: None
    """Refuses a checkpoint to resume for what ``save_files`` wrote, or returns a line for a person."""
    sample: Callable[[dict[str, Tensor]], str] | None = None
    """Makes a text with the weights it is given, to be shown at every evaluation."""
    message: Callable[[str], None] = write_line
    """Takes a line for a person."""
