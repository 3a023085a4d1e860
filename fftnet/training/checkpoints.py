"""The checkpoints of a run: each whole, sealed by a manifest of checksums, the newest intact one found."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fftnet import serialization
from fftnet.serialization import CheckpointError

MANIFEST = "manifest.json"
LAST, BEST = "last", "best"


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """What is kept of a run, and where.

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
        for name in ("save_every", "save_minutes", "keep_last"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class Checkpoints:
    """Folders ``step-<number>`` of a run, and links ``last`` and ``best`` to two of them.

    Args:
        folder: of the run.
        keep: how many of the newest are kept, beside the best.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def save(self, step: int, fill: Callable[[Path], None], size: int) -> Path:
        """Write the checkpoint of a step, whole or not at all.

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
            _seal(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            _flush(self.folder)
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
        return sorted(found, key=_age, reverse=True)

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
        place, temporary = self.folder / name, self.folder / f".{name}.tmp"
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
        for path in self.all()[1 if others else self._keep :]:
            if path.name != best:
                shutil.rmtree(path, ignore_errors=True)

    def _reason(self, error: Exception, size: int) -> str:
        while not isinstance(error, OSError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if not serialization.is_full(error):
            return serialization.reason(error)
        missing = size - shutil.disk_usage(self.folder).free
        lack = f"{missing:,} bytes are missing" if missing > 0 else f"it takes {size:,} bytes"
        return f"the disk is full, {lack}: free them or choose another --output_dir"


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, truncated or changed.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not there: is it the folder of a checkpoint?")
    manifest = folder / MANIFEST
    files = serialization.read_json(manifest)
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{manifest} is damaged, take another checkpoint: it names no files")
    for name, (size, digest) in files.items():
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                raise CheckpointError(
                    f"{path} is truncated, take another checkpoint: {found} of {size} bytes"
                )
            if _digest(path) != digest:
                raise CheckpointError(f"{path} is damaged, take another checkpoint: its checksum differs")
        except OSError as error:
            raise CheckpointError(f"{path} is missing: take another checkpoint") from error


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        _flush(path)
    manifest = folder / MANIFEST
    serialization.write_json(manifest, {path.name: [path.stat().st_size, _digest(path)] for path in files})
    _flush(manifest)
    _flush(folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        # hashlib.file_digest needs Python 3.11.
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age(path: Path) -> tuple[int, str]:
    manifest = path / MANIFEST
    return (manifest if manifest.exists() else path).stat().st_mtime_ns, path.name
