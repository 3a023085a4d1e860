"""The folder of a run: what is written into it on the way, and how a run is found there and goes on."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fftnet import serialization
from fftnet.training.accelerator import TrainingError
from fftnet.training.checkpoints import BEST, Checkpoints, SaveConfig, verify
from fftnet.training.distributed import Engine
from fftnet.training.ema import WeightAverage
from fftnet.training.state import Progress, Snapshot, put_back, read_settings, take

LOGS = "logs"


class RunStore:
    """Saves a run and brings it back; every process calls the same methods at the same time.

    Args:
        engine: the processes.
        average: of the weights, if one is kept.
        config: what is kept, where, and whether a run goes on.
        settings: JSON-able description of the run; going on with another one is refused.
        save_extras: writes what belongs into a checkpoint beside the weights.
        say: tells the user something.
    """

    def __init__(
        self,
        engine: Engine,
        average: WeightAverage | None,
        config: SaveConfig,
        settings: dict[str, Any],
        save_extras: Callable[[Path], None],
        say: Callable[[str], None],
    ) -> None:
        self._engine, self._average, self._config = engine, average, config
        self._save_extras, self._say = save_extras, say
        self.settings = serialization.as_json(settings)
        self._checkpoints = Checkpoints(Path(config.output_dir), config.keep_last)
        self.newest: Path | None = None
        """The newest checkpoint of this run."""
        self.saved_step, self.saved_at = 0, time.perf_counter()

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            CheckpointError: if it can't be written.
        """

        def probe() -> None:
            folder = self._checkpoints.folder
            with serialization.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()

        self._engine.on_main(probe)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: if it can't be written; all earlier ones are kept.
        """
        snapshot = take(self._engine, self._average, progress, self.settings)
        self._engine.on_main(partial(self._write, snapshot, progress))
        self.saved_step, self.saved_at = progress.spent.steps, time.perf_counter()
        self.newest = self._checkpoints.path(self.saved_step)

    def resume(self) -> Progress | None:
        """Go back to the checkpoint that the configuration asks for; None starts a new run.

        Raises:
            TrainingError: if it is of a run with other settings, or there are checkpoints but none is intact.
            CheckpointError: if it can't be read.
        """
        if self._config.resume is None:
            return None
        folder = self._engine.agreed(self._engine.on_main(self._find))
        if folder is None:
            self._say(f"nothing to resume in {self._checkpoints.folder}: a new run starts")
            return None
        self._compare(folder)
        progress = put_back(self._engine, self._average, folder)
        self.newest, self.saved_step = folder, progress.spent.steps
        self._say(f"resuming {folder} at step {progress.spent.steps}")
        return progress

    def _write(self, snapshot: Snapshot, progress: Progress) -> None:
        fill = partial(snapshot.write, save_extras=self._save_extras)
        path = self._checkpoints.save(progress.spent.steps, fill, snapshot.size)
        best = self._checkpoints.path(progress.best["step"]) if progress.best else path
        if best.is_dir():
            self._checkpoints.link(BEST, best)
        self._checkpoints.drop(best.name, others=self.newest is None)

    def _find(self) -> Path | None:
        if self._config.resume not in (None, "auto"):
            verify(Path(self._config.resume))
            return Path(self._config.resume)
        found, problems = self._checkpoints.newest_intact()
        for problem in problems:
            self._say(f"skipped: {problem}")
        if found is None and problems:
            raise TrainingError(
                f"no checkpoint in {self._checkpoints.folder} is intact: train anew in another output_dir"
            )
        return found

    def _compare(self, folder: Path) -> None:
        stored, asked = read_settings(folder), dict(self.settings)
        # The stable part of this schedule does not know the end, so that a run may be made longer.
        if asked["optim"]["schedule"] == "wsd" and stored["budget"] != asked["budget"]:
            self._say(f"the budget changes from {stored['budget']} to {asked['budget']}")
            stored["budget"] = asked["budget"]
        if others := list(serialization.differences(stored, asked)):
            raise TrainingError(
                f"{folder} was trained with other settings ({', '.join(others)}); resume with the flags of "
                "its start, or train anew in another output_dir"
            )
