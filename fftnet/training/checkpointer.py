"""The folder of a run: checkpoints are written into it whole or not at all, found again, and gone on from."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fftnet import serialization
from fftnet.fields import check_fields
from fftnet.serialization import CheckpointError
from fftnet.training.accelerator import TrainingError
from fftnet.training.carry import Carried
from fftnet.training.distributed import Distributed
from fftnet.training.ema import EMA
from fftnet.training.manifest import BEST, LAST, age, flush, seal, verify
from fftnet.training.state import Snapshot, TrainingState, capture, read_settings, restore


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
    resume: str | None = field(default=None, metadata={"alone": "auto"})
    """Go on exactly where a run stopped: auto, the newest intact checkpoint in output_dir if there is one,
    or the folder of a checkpoint. The flag alone means auto."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("save_every", "save_minutes", "keep_last"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class Checkpointer:
    """Saves a run as folders ``step-<number>``, with links ``last`` and ``best``, and brings it back.

    Every process calls ``prepare``, ``save`` and ``resume`` at the same time; the other methods
    are for the main process.

    Args:
        distributed: the processes, with model and optimizer.
        ema: the moving average of the weights, if one is kept.
        config: what is kept, where, and whether a run goes on.
        settings: JSON-able description of the run; going on with another one is refused.
        save_files: writes what belongs into a checkpoint beside the weights.
        message: tells the user something.
    """

    def __init__(
        self,
        distributed: Distributed,
        ema: EMA | None,
        config: SaveConfig,
        settings: dict[str, Any],
        save_files: Callable[[Path], None],
        message: Callable[[str], None],
    ) -> None:
        self._distributed = distributed
        self._ema = ema
        self._config = config
        self._save_files = save_files
        self._message = message
        self.settings = serialization.as_json(settings)
        self.folder = Path(config.output_dir)
        self.newest: Path | None = None
        """The newest checkpoint of this run."""
        self.saved_step = 0
        self.saved_at = time.perf_counter()

    def prepare(self) -> None:
        """Make the folder, and look at the checkpoint to go on from if one is named.

        Raises:
            CheckpointError: if the folder can't be written, or there is no such checkpoint.
        """

        def probe() -> None:
            if self._config.resume not in (None, "auto"):
                verify(Path(self._config.resume))
            with serialization.writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.folder).close()

        self._distributed.main_process_only(probe)

    def save(self, state: TrainingState, carried: Carried | None = None) -> None:
        """Write a checkpoint, with what the rows leave for the next step where they go on.

        Raises:
            CheckpointError: if it can't be written; all earlier ones are kept.
        """
        snapshot = capture(self._distributed, self._ema, state, carried, self.settings)
        self._distributed.main_process_only(partial(self._write_and_link, snapshot, state))
        self.saved_step = state.counters.steps
        self.saved_at = time.perf_counter()
        self.newest = self.path(self.saved_step)

    def resume(self) -> tuple[TrainingState, Carried | None] | None:
        """Go back to the checkpoint that the configuration asks for; None starts a new run.

        Raises:
            TrainingError: if it is of a run with other settings, or there are checkpoints but none is intact.
            CheckpointError: if it can't be read.
        """
        if self._config.resume is None:
            return None
        folder = self._distributed.broadcast(self._distributed.main_process_only(self._chosen))
        if folder is None:
            self._message(f"nothing to resume in {self.folder}: a new run starts")
            return None
        self._check_settings(folder)
        state, carried = restore(self._distributed, self._ema, folder)
        self.newest = folder
        self.saved_step = state.counters.steps
        self._message(f"resuming {folder} at step {self.saved_step}")
        return state, carried

    def write(self, step: int, fill: Callable[[Path], None], size: int) -> Path:
        """Write the checkpoint of a step into the run's folder, whole or not at all.

        It is filled under another name, checked off in a manifest, flushed to the disk, and renamed.

        Args:
            step: its number.
            fill: writes the files into the folder that it is given.
            size: bytes that it will take, about.

        Raises:
            CheckpointError: if it can't be written; all others are still there.
        """
        path = self.path(step)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            for left in self.folder.glob("step-*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir(parents=True)
            fill(temporary)
            seal(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            flush(self.folder)
        except (OSError, CheckpointError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = "; all earlier ones are kept" if self.all() else ""
            raise CheckpointError(
                f"the checkpoint {path} could not be saved: {self._reason(error, size)}{kept}"
            ) from error
        self.link(LAST, path)
        return path

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is or would be."""
        return self.folder / f"step-{step:08d}"

    def all(self) -> list[Path]:
        """Checkpoints, the newest first; none of them has been checked."""
        found = (path for path in self.folder.glob("step-*") if path.suffix != ".tmp" and path.is_dir())
        return sorted(found, key=age, reverse=True)

    def newest_intact(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, if any, and why the newer ones are not."""
        problems = []
        for path in self.all():
            try:
                verify(path)
            except CheckpointError as error:
                problems.append(str(error))
            else:
                return path, problems
        return None, problems

    def link(self, name: str, path: Path) -> None:
        """Let ``name`` in the folder stand for a checkpoint, from one instant to the next."""
        place = self.folder / name
        temporary = self.folder / f".{name}.tmp"
        # Some file systems have no links; there, checkpoints go by their own names only.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(path.name, target_is_directory=True)
            if place.is_dir() and not place.is_symlink():
                place.rename(place.with_name(f"{name}.old"))
            temporary.replace(place)

    def drop(self, best: str | None, others: bool = False) -> None:
        """Delete the oldest checkpoints, or all but the newest.

        Args:
            best: name of the one that stays however old it is.
            others: whether all but the newest are of another run.
        """
        for path in self.all()[1 if others else self._config.keep_last :]:
            if path.name != best:
                shutil.rmtree(path, ignore_errors=True)

    def _write_and_link(self, snapshot: Snapshot, state: TrainingState) -> None:
        fill = partial(snapshot.write, save_files=self._save_files)
        path = self.write(state.counters.steps, fill, snapshot.size)
        best = self.path(state.best["step"]) if state.best else path
        if best.is_dir():
            self.link(BEST, best)
        self.drop(best.name, others=self.newest is None)

    def _chosen(self) -> Path | None:
        if self._config.resume not in (None, "auto"):
            # prepare has verified it.
            return Path(self._config.resume)
        found, problems = self.newest_intact()
        for problem in problems:
            self._message(f"skipped: {problem}")
        if found is None and problems:
            raise TrainingError(f"no checkpoint in {self.folder} is intact: train anew in another output_dir")
        return found

    def _check_settings(self, folder: Path) -> None:
        stored = read_settings(folder)
        asked = dict(self.settings)
        # The stable part of this schedule does not know the end, so that a run may be made longer.
        if asked["optim"]["schedule"] == "wsd" and stored["budget"] != asked["budget"]:
            self._message(f"the budget changes from {stored['budget']} to {asked['budget']}")
            stored["budget"] = asked["budget"]
        # A run may move to a machine that computes in other numbers, but not without a word.
        before = stored.pop("precision", "one that was not recorded")
        now = asked.pop("precision")
        if before != now:
            self._message(f"the precision changes from {before} to {now}: --precision chooses another")
        if others := list(differences(stored, asked)):
            raise TrainingError(
                f"{folder} was trained with other settings ({', '.join(others)}); resume with the flags of "
                "its start, or train anew in another output_dir"
            )

    def _reason(self, error: Exception, size: int) -> str:
        while not isinstance(error, OSError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if not serialization.is_full(error):
            return serialization.reason(error)
        missing = size - shutil.disk_usage(self.folder).free
        lack = f"{missing:,} bytes are missing" if missing > 0 else f"it takes {size:,} bytes"
        return f"the disk is full, {lack}: free them or choose another --output_dir"


def differences(stored: Any, asked: Any, name: str = "") -> Iterator[str]:
    """Name what differs between two trees of dictionaries, as ``a.b 1, not 2``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            yield from differences(stored.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif stored != asked:
        yield f"{name} {stored}, not {asked}"
