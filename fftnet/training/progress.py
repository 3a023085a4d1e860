"""Lines and the progress bar that a person sees of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

LINE = 80
"""Most characters of the line of an evaluation."""


def listed(values: Mapping[str, float | None]) -> str:
    """The values that are known, as ``loss 1.234, bits per byte 0.567``."""
    known = {name.replace("_", " "): value for name, value in values.items() if value is not None}
    return ", ".join(f"{name} {value:.3f}" for name, value in known.items())


def evaluation_line(
    step: int, losses: Mapping[str, float], further: Mapping[str, float | None], speed: str
) -> str:
    """Describe an evaluation in a line that fits a terminal.

    Args:
        step: of the run.
        losses: always shown.
        further: shown as long as they fit, the first ones first.
        speed: shown if it still fits.
    """
    line = f"step {step}: {listed(losses)}"
    parts = [listed({name: value}) for name, value in further.items() if value is not None]
    for part in (*parts, speed):
        if len(line) + len(part) + 2 <= LINE:
            line += f", {part}"
    return line


@contextmanager
def paused(bar: tqdm) -> Iterator[None]:
    """Keep the time of something else out of the bar's rate, from which it computes the remaining time."""
    started = time.time()
    yield
    if not bar.disable:
        bar.last_print_t += time.time() - started
