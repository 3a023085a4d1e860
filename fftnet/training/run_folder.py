"""The output folder of a run: its settings, its lock, and the protection of other runs' files."""

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
from fftnet.fields import check_fields, check_positive, documented
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
    """Output folder of a run, its checkpoints, and resuming."""

    output_dir: str = "outputs"
    """Folder for checkpoints, the loss plot and the metrics."""
    save_model: bool = True
    """Checkpoints at every evaluation, and in between as save_every and save_minutes say."""
    save_every: int | None = None
    """Steps between two checkpoints, in addition to those of evaluations."""
    save_minutes: float = 15.0
    """Maximum time between two checkpoints, minutes."""
    keep_last: int = 2
    """Number of newest checkpoints to keep, in addition to the best one."""
    resume: str | None = field(default=None, metadata={"alone": AUTO})
    """Checkpoint to continue from, exactly where its run stopped: auto, the latest intact checkpoint in
    output_dir if there is one, or the folder of a checkpoint. The flag without a value means auto."""
    overwrite: bool = False
    """Replacement of another run in output_dir. Its checkpoints stay until this run has written one."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "save_every", "save_minutes", "keep_last")
        if self.overwrite and self.resume is not None:
            raise ValueError("resume continues a run and overwrite replaces it: leave one of them out")


@contextmanager
def claimed(
    config: SaveConfig, *, main: bool = True, message: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Keep other runs out of the output folder, and this run out of the folder of another one.

    A run may claim its folder several times. Nothing is written into a folder that is refused. Only the main
    process holds the lock and writes.
    """
    folder = Path(config.output_dir)
    with ExitStack() as stack:
        # The lock comes first: a user should hear that a run is active before hearing of its checkpoints.
        if main and (folder / LOCK_FILE).exists():
            _hold(folder, stack)
        refuse_another_run(config)
        if main:
            with serialization.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                # A folder that can't be written is reported now, not after an hour of training.
                tempfile.TemporaryFile(dir=folder).close()
            if not _hold(folder, stack):
                message(f"{folder} is on a file system without locks: start no second run in it")
            finish_replacements(folder)
            # Once more, because a checkpoint may have come back.
            refuse_another_run(config)
        yield


def _hold(folder: Path, stack: ExitStack) -> bool:
    """Hold the lock of a folder until the stack is closed; False on a file system without locks."""
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
    """Refuse a configuration under which a run would replace the files of another run in its folder."""
    if config.overwrite or config.resume == AUTO:
        return
    folder = Path(config.output_dir)
    found = checkpoints(folder)
    results = [name for name in (METRICS_FILE, PLOT_FILE) if os.path.lexists(folder / name)]
    # Links such as last are resolved to the checkpoint that they name.
    start = None if config.resume is None else Path(config.resume).resolve()
    if start is not None and start.parent == folder.resolve():
        # Resuming an earlier checkpoint of the folder would overwrite the later ones.
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
    """Finish the replacement of checkpoints that a killed process has begun.

    A checkpoint ``step-N.replaced`` is deleted if its successor is complete, and else renamed back.
    """
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
    """Rename a file of the user that has the name of a file of a run, and say so."""
    names = (path.with_name(f"{path.name}.old{number}") for number in count(1))
    other = next(name for name in names if not os.path.lexists(name))
    path.rename(other)
    message(f"{path} was not made by this run and is now {other}")
