"""The output folder of a run: its settings, who may write into it, and what other runs have left there."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from fftnet import serialization
from fftnet.fields import check_fields, documented
from fftnet.locks import locked
from fftnet.training.accelerator import TrainingError
from fftnet.training.manifest import REPLACED, checkpoints, is_sealed, step_of

LOCK_FILE = ".fftnet.lock"
METRICS_FILE = "metrics.json"
PLOT_FILE = "loss_plot.png"
AUTO = "auto"
"""Value of ``resume``: the latest checkpoint in the output folder."""


@documented
@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """Where the checkpoints of a run are written, how often, and whether a run is resumed.

    Raises:
        ValueError: if a field is out of range.
    """

    output_dir: str = "outputs"
    """Folder of the checkpoints, the loss curve and the metrics."""
    save_model: bool = True
    """Write checkpoints: at every evaluation, and in between as the next two fields say."""
    save_every: int | None = None
    """Steps between two checkpoints beside those of evaluations."""
    save_minutes: float = 15.0
    """Minutes after which a checkpoint is written anyway."""
    keep_last: int = 2
    """Newest checkpoints that are kept, beside the best one."""
    resume: str | None = field(default=None, metadata={"alone": AUTO})
    """Go on exactly where a run stopped: auto, the latest intact checkpoint in output_dir if there is one,
    or the folder of a checkpoint. The flag alone means auto."""
    overwrite: bool = False
    """Replace another run in output_dir. Its checkpoints stay until this run has written one."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("save_every", "save_minutes", "keep_last"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.overwrite and self.resume is not None:
            raise ValueError("resume continues a run and overwrite replaces it: leave one of them out")


@contextmanager
def claimed(
    config: SaveConfig, *, main: bool = True, message: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Keep other runs out of the output folder, and this run out of the folder of another one.

    A run may claim its folder several times. Nothing is written into a folder that is refused.

    Args:
        config: names the folder, and says what may happen to a run in it.
        main: whether this is the main process, which holds the lock and writes.
        message: tells the user something.

    Raises:
        CheckpointError: if the folder can't be written.
        TrainingError: if another run is in the folder, or writes into it at this moment.
    """
    folder = Path(config.output_dir)
    with ExitStack() as stack:
        # A run that goes on at this moment is told by its lock, before its checkpoints are.
        if main and (folder / LOCK_FILE).exists():
            _hold(folder, stack)
        refuse_another_run(config)
        if main:
            with serialization.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            if not _hold(folder, stack):
                message(f"{folder} is on a file system without locks: start no second run in it")
            finish_replacements(folder)
            refuse_another_run(config)
        yield


def _hold(folder: Path, stack: ExitStack) -> bool:
    """Take the lock of a folder for the life of a stack; False on a file system without locks."""
    lock = folder / LOCK_FILE
    with serialization.writing(lock):
        try:
            return stack.enter_context(locked(lock, wait=False))
        except TimeoutError as error:
            raise TrainingError(
                f"another run is writing into {folder}: wait for its end, stop it, or choose another "
                "--output_dir"
            ) from error


def refuse_another_run(config: SaveConfig) -> None:
    """Refuse a configuration under which a run would replace what another run has left in its folder.

    Raises:
        TrainingError: naming the ways out.
    """
    if config.overwrite or config.resume == AUTO:
        return
    folder = Path(config.output_dir)
    found = checkpoints(folder)
    results = [name for name in (METRICS_FILE, PLOT_FILE) if os.path.lexists(folder / name)]
    start = None if config.resume is None else Path(config.resume).resolve()
    if start is not None and start.parent == folder.resolve():
        if not found or (step_of(found[0].name) or 0) <= (step_of(start.name) or math.inf):
            return
        problem = (
            f"later checkpoints than {config.resume}, up to {found[0].name}: give --resume alone to continue "
            "from there"
        )
    elif found and start is not None:
        problem = f"the checkpoints of another run than {config.resume}: give --resume alone to continue it"
    elif found:
        problem = "the checkpoints of another run: add --resume to continue it, --overwrite to replace it"
    elif results:
        problem = f"the results of another run ({', '.join(results)}): add --overwrite to replace them"
    else:
        return
    raise TrainingError(f"{folder} holds {problem}, or choose another --output_dir")


def finish_replacements(folder: Path) -> None:
    """Finish what a killed process has begun: a checkpoint that was moved away is back or has a successor."""
    for path in folder.glob("step-*"):
        name = REPLACED.fullmatch(path.name)
        if name is None or not is_sealed(path):
            continue
        place = folder / name[1]
        if is_sealed(place):
            shutil.rmtree(path, ignore_errors=True)
        elif not os.path.lexists(place):
            path.rename(place)


def set_aside(path: Path, message: Callable[[str], None]) -> None:
    """Rename something of the user that has the name of a file of a run, and say so.

    Raises:
        OSError: if it can't be renamed.
    """
    names = (path.with_name(f"{path.name}.old{number}") for number in count(1))
    other = next(name for name in names if not os.path.lexists(name))
    path.rename(other)
    message(f"{path} was not made by this run and is now {other}")
