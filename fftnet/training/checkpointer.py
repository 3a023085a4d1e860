"""Checkpoints of a run: written whole or not at all, found again, and resumed."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fftnet import serialization
from fftnet.errors import UserError
from fftnet.serialization import WEIGHTS_FILE, CheckpointError
from fftnet.training import manifest
from fftnet.training.accelerator import TrainingError
from fftnet.training.config import Callbacks
from fftnet.training.distributed import Distributed
from fftnet.training.optim import ADAMW, EMA
from fftnet.training.run_folder import AUTO, SaveConfig, claimed, finish_replacements, set_aside
from fftnet.training.sharding import Carried
from fftnet.training.state import TENSORS_FILE, VALUES_FILE, TrainingState, capture, read_values, restore

RESUMABLE = (WEIGHTS_FILE, TENSORS_FILE, VALUES_FILE)
"""Files without which a checkpoint can't be resumed."""


class Checkpointer:
    """Saves a run in folders ``step-<number>``, with links ``last`` and ``best``, and resumes it.

    Every process must call ``claimed``, ``save`` and ``resume`` at the same time; the other methods are for
    the main process. A checkpoint with other ``settings`` (JSON-able) is not resumed.
    """

    def __init__(
        self,
        distributed: Distributed,
        ema: EMA | None,
        config: SaveConfig,
        settings: dict[str, Any],
        callbacks: Callbacks,
        message: Callable[[str], None],
    ) -> None:
        self._distributed = distributed
        self._ema = ema
        self._config = config
        self._callbacks = callbacks
        self._message = message
        self.settings = serialization.as_json(settings)
        self.folder = Path(config.output_dir)
        self.newest: Path | None = None
        """Newest checkpoint of this run."""
        # Deleting is limited to folders that this run has written, resumed or explicitly replaces.
        self._own: set[str] = set()
        """Names of checkpoints of this run; no others may be deleted."""
        self._replaced: list[Path] = []
        """Checkpoints of the run that this one replaces."""
        self.saved_step = 0
        self.saved_at = time.perf_counter()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the output folder, and verify the checkpoint to resume if one is named."""
        with ExitStack() as stack:

            def claim() -> None:
                # A checkpoint that the user names is verified before the folder is created.
                if self._config.resume not in (None, AUTO):
                    manifest.verify(Path(self._config.resume), RESUMABLE)
                stack.enter_context(claimed(self._config, message=self._message))
                if self._config.overwrite and (found := manifest.checkpoints(self.folder)):
                    self._replaced = [path for path in found if manifest.is_sealed(path)]
                    self._message(f"{self.folder}: this run replaces another one with its first checkpoint")

            self._distributed.main_process_only(claim)
            yield

    def save(self, state: TrainingState, carried: Carried | None = None) -> None:
        """Write a checkpoint, with the recurrent states of rows if they continue."""
        # All processes take part in gathering; only the main process writes.
        snapshot = capture(self._distributed, self._ema, state, carried, self.settings)

        def write() -> None:
            fill = partial(snapshot.write, save_files=self._callbacks.save_files)
            path = self.write(state.counters.steps, fill, snapshot.size)
            best = self.path(state.best["step"]) if state.best else path
            if best.is_dir():
                self.link(manifest.BEST, best)
            self.drop(best.name)

        self._distributed.main_process_only(write)
        self.saved_step = state.counters.steps
        self.saved_at = time.perf_counter()
        self.newest = self.path(self.saved_step)

    def resume(self) -> tuple[TrainingState, Carried | None] | None:
        """Load the checkpoint that the configuration names; None starts a new run."""
        if self._config.resume is None:
            return None
        folder = self._distributed.broadcast(self._distributed.main_process_only(self._chosen))
        if folder is None:
            self._message(f"nothing to resume in {self.folder}: a new run starts")
            return None
        state, carried = restore(self._distributed, self._ema, folder)
        self.newest = folder
        self.saved_step = state.counters.steps
        self._message(f"resuming {folder} at step {self.saved_step}")
        return state, carried

    def write(self, step: int, fill: Callable[[Path], None], size: int) -> Path:
        """Write a checkpoint of about ``size`` bytes into the output folder, whole or not at all.

        It is filled under a temporary name, sealed by a manifest, flushed to the disk, and renamed.
        """
        path = self.path(step)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            for unfinished in self.folder.glob("step-*.tmp"):
                if manifest.UNFINISHED.fullmatch(unfinished.name):
                    shutil.rmtree(unfinished, ignore_errors=True)
            # Until the rename below, a crash leaves a .tmp folder, which the next write deletes.
            temporary.mkdir(parents=True)
            fill(temporary)
            manifest.seal(temporary)
            # A folder of this name is moved, not deleted: between two renames a crash must not lose both.
            self._make_way(path)
            temporary.rename(path)
            # The rename itself must be on the disk before the replaced checkpoint is deleted.
            manifest.flush(self.folder)
            finish_replacements(self.folder)
        except (OSError, CheckpointError) as error:
            # A full disk: free the space of the unfinished checkpoint.
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):
                finish_replacements(self.folder)
            kept = "; all earlier ones are kept" if manifest.checkpoints(self.folder) else ""
            raise CheckpointError(
                f"the checkpoint {path} could not be saved: {self._reason(error, size)}{kept}"
            ) from error
        self._own.add(path.name)
        self.newest = path
        self.link(manifest.LAST, path)
        return path

    def _make_way(self, path: Path) -> None:
        """Rename a folder with the name of a new checkpoint; it is deleted after the new one is complete."""
        if not os.path.lexists(path):
            return
        if path.name in self._own or path in self._replaced:
            path.rename(path.with_name(f"{path.name}.replaced"))
        else:
            set_aside(path, self._message)

    def path(self, step: int) -> Path:
        """Return the folder for the checkpoint of a step, which need not exist."""
        return self.folder / f"step-{step:08d}"

    def best(self) -> Path:
        """Return the checkpoint with the lowest validation loss, or the newest one if that is missing."""
        best = self.folder / manifest.BEST
        return best if best.is_dir() else self.newest or best

    def newest_intact(
        self, check: Callable[[Path], None] = lambda path: None
    ) -> tuple[Path | None, dict[Path, UserError]]:
        """Find the checkpoint of the highest step that is whole and passes a check.

        Return the checkpoint or None, and the problem of each one of a higher step.
        """
        problems: dict[Path, UserError] = {}
        # The list starts with the highest step.
        for path in manifest.checkpoints(self.folder):
            try:
                manifest.verify(path, RESUMABLE)
                check(path)
            except (CheckpointError, TrainingError) as error:
                problems[path] = error
            else:
                return path, problems
        return None, problems

    def link(self, name: str, path: Path) -> None:
        """Set a link in the output folder to a checkpoint, in one atomic step."""
        place = self.folder / name
        temporary = self.folder / f".{name}.tmp"
        # Some file systems have no links; there, checkpoints have their own names only.
        with suppress(OSError):
            if temporary.is_symlink():
                temporary.unlink()
            # A new link is made under another name and renamed: there is no moment without a link.
            temporary.symlink_to(path.name, target_is_directory=True)
            if os.path.lexists(place) and self._linked(name) is None:
                set_aside(place, self._message)
            temporary.replace(place)

    def _linked(self, name: str) -> str | None:
        """Return the name of the checkpoint that a link points to; None if it is no such link."""
        place = self.folder / name
        target = os.readlink(place) if place.is_symlink() else ""
        return None if manifest.step_of(target) is None else target

    def drop(self, best: str | None) -> None:
        """Delete the oldest checkpoints of this run, and all of a run that it replaces.

        The newest checkpoint, the best one and those that links point to stay.
        """
        newest = "" if self.newest is None else self.newest.name
        kept = {best, newest, self._linked(manifest.BEST), self._linked(manifest.LAST)}
        # A checkpoint of a higher step is damaged, or the run would have resumed from it.
        own = [path for path in manifest.checkpoints(self.folder) if path.name in self._own]
        past = [path for path in own if (manifest.step_of(path.name) or 0) <= (manifest.step_of(newest) or 0)]
        for path in [*past[self._config.keep_last :], *self._replaced]:
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        self._replaced = []

    def _chosen(self) -> Path | None:
        """Return the checkpoint to resume, or None."""
        if self._config.resume not in (None, AUTO):
            # It was verified when the folder was claimed.
            folder = Path(self._config.resume)
            self._check_settings(folder)
            problems = {}
        else:
            folder, problems = self.newest_intact(self._check_settings)
        # Checkpoints of another run in the folder are passed over and never deleted.
        others = {path: problem for path, problem in problems.items() if isinstance(problem, TrainingError)}
        if folder is None and others:
            raise next(iter(others.values()))
        for problem in problems.values():
            self._message(f"skipped: {problem}")
        if folder is None and problems:
            raise TrainingError(
                f"no checkpoint in {self.folder} is intact: train in another output_dir, or with --overwrite"
            )
        if folder is not None and folder.resolve().parent == self.folder.resolve():
            found = [path for path in manifest.checkpoints(self.folder) if path not in others]
            self._own = {path.name for path in found if manifest.is_sealed(path)}
        return folder

    def _check_settings(self, folder: Path) -> None:
        """Refuse a checkpoint of a run with other settings; changes that are allowed are shown."""
        stored = read_values(folder)["settings"]
        # Version 0.3 and earlier had one optimizer and did not store its name.
        stored["optim"].setdefault("optimizer", ADAMW)
        asked = dict(self.settings)
        # Files first: changed data may also change settings, such as the number of classes.
        changes = [self._callbacks.check_files(folder)]
        # The stable part of the wsd schedule does not depend on the end, so that a run may become longer.
        if asked["optim"]["schedule"] == "wsd" and stored["budget"] != asked["budget"]:
            changes.append(f"the budget changes from {stored['budget']} to {asked['budget']}")
            stored["budget"] = asked["budget"]
        # Another machine may need another precision; the user is told.
        before = stored.pop("precision", "one that was not recorded")
        now = asked.pop("precision")
        if before != now:
            changes.append(f"the precision changes from {before} to {now}: --precision chooses another")
        if others := list(differences(stored, asked)):
            raise TrainingError(
                f"{folder} was trained with other settings ({', '.join(others)}): resume with the flags of "
                "its start, or train in another output_dir"
            )
        for change in filter(None, changes):
            self._message(change)

    def _reason(self, error: Exception, size: int) -> str:
        """Describe why a checkpoint could not be written; a full disk with the missing bytes."""
        # The cause is the error of the system, such as a full disk.
        while not isinstance(error, OSError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if not serialization.is_full(error):
            return serialization.reason(error)
        missing = size - shutil.disk_usage(self.folder).free
        lack = f"{missing:,} bytes are missing" if missing > 0 else f"it takes {size:,} bytes"
        return f"the disk is full, {lack}: free them or choose another --output_dir"


def differences(stored: Any, asked: Any, name: str = "") -> Iterator[str]:
    """Yield the differences between two trees of dictionaries, as ``a.b 1, not 2``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            yield from differences(stored.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif stored != asked:
        yield f"{name} {stored}, not {asked}"
