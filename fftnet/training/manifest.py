"""Folders of checkpoints: found, ordered by step, sealed by a manifest of checksums, and verified.

Loading a model needs this much of training and no more, so that nothing slow is imported here.
"""

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fftnet import serialization
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE, CheckpointError

MANIFEST_FILE = "manifest.json"
"""Name to size in bytes and SHA-256 of every other file of a checkpoint."""
BEST = "best"
LAST = "last"
STEP = re.compile(r"step-(\d+)")
"""Name of the folder of a checkpoint."""
UNFINISHED = re.compile(r"step-\d+\.tmp")
"""Name of a checkpoint while it is written."""
REPLACED = re.compile(r"(step-\d+)\.replaced")
"""Name of a checkpoint while another one takes its place."""


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint's folder, None for any other name."""
    found = STEP.fullmatch(name)
    return int(found[1]) if found else None


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run, the highest step first; they are not verified.

    Clocks may be wrong and copies change times, so that the step in the name alone counts.
    """
    steps = {path: step_of(path.name) for path in folder.glob("step-*")}
    found = [path for path, step in steps.items() if step is not None and _is_checkpoint(path)]
    return sorted(found, key=lambda path: (steps[path], path.name), reverse=True)


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder was written by a run: it has a manifest, or has lost it and still has weights."""
    return is_sealed(path) or (path / WEIGHTS_FILE).is_file()


def is_sealed(path: Path) -> bool:
    """Whether a folder has a manifest; nothing else may be deleted in the name of a run."""
    return not path.is_symlink() and os.path.lexists(path / MANIFEST_FILE)


def newest_checkpoint(root: Path) -> Path:
    """Return the checkpoint of the newest run under a folder: its best one, or the one of the highest step.

    The newest run is the one whose last checkpoint was written last.

    Raises:
        CheckpointError: if there is none; the sentence names commands that help.
    """
    runs: dict[Path, list[Path]] = {}
    # Path.rglob fails when a run deletes a folder meanwhile.
    for place, _, files in os.walk(root):
        folder = Path(place)
        if {WEIGHTS_FILE, CONFIG_FILE} <= set(files) and not _is_passing(folder.name):
            run = folder if step_of(folder.name) is None else folder.parent
            runs.setdefault(run, []).append(folder)
    if not runs:
        raise CheckpointError(
            f"no checkpoint under {root}/: train a model with fftnet train --data my.txt, or try the one of "
            "the repository with fftnet generate models/shakespeare"
        )
    last = {run: max(found, key=lambda path: step_of(path.name) or 0) for run, found in runs.items()}
    newest = max(last, key=lambda run: (_written(last[run]), run))
    best = newest / BEST
    return best if (best / WEIGHTS_FILE).is_file() else last[newest]


def _is_passing(name: str) -> bool:
    return bool(UNFINISHED.fullmatch(name) or REPLACED.fullmatch(name))


def _written(folder: Path) -> int:
    try:
        return (folder / WEIGHTS_FILE).stat().st_mtime_ns
    except OSError:
        # A run has deleted it meanwhile.
        return 0


def verify(folder: Path, required: Sequence[str] = (WEIGHTS_FILE,)) -> None:
    """Check a checkpoint against its manifest.

    Args:
        folder: the checkpoint.
        required: files that the manifest must name. A configuration that is there must be named, too.

    Raises:
        CheckpointError: naming the first file that is missing, truncated or changed.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not there: is it the folder of a checkpoint?")
    configuration = [CONFIG_FILE] if os.path.lexists(folder / CONFIG_FILE) else []
    for name, (size, digest) in _read_manifest(folder / MANIFEST_FILE, [*required, *configuration]).items():
        path = folder / name
        try:
            found = _size(path)
            if found != size:
                raise CheckpointError(
                    f"{path} is truncated, take another checkpoint: {found} of {size} bytes"
                )
            if _digest(path) != digest:
                raise CheckpointError(f"{path} is damaged, take another checkpoint: its checksum differs")
        except OSError as error:
            raise CheckpointError(f"{path} is missing: take another checkpoint") from error


def _read_manifest(manifest: Path, required: Sequence[str]) -> dict[str, list[Any]]:
    files = serialization.read_json(manifest)
    problem = None
    if not isinstance(files, dict) or not files:
        problem = "it names no files"
    elif wrong := [name for name, entry in files.items() if not _is_entry(name, entry)]:
        problem = f"see its entry {wrong[0]!r}"
    elif missing := [name for name in required if name not in files]:
        problem = f"it does not name {missing[0]}"
    if problem is not None:
        raise CheckpointError(f"{manifest} is damaged, take another checkpoint: {problem}")
    return files


def _is_entry(name: str, entry: Any) -> bool:
    """Whether a manifest can say this of a file; names lead nowhere else."""
    return serialization.is_file_name(name) and isinstance(entry, list) and len(entry) == 2


def _size(path: Path) -> int:
    """Return the bytes of a file.

    Raises:
        CheckpointError: if it is a folder, a pipe (its reader may wait for ever) or a device (it may have no
            end).
        OSError: if it is missing.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is damaged, take another checkpoint: it is not a regular file")
    return status.st_size


def seal(folder: Path) -> None:
    """Write the manifest of all files of a folder, and flush them to the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        flush(path)
    manifest = folder / MANIFEST_FILE
    serialization.write_json(manifest, {path.name: [path.stat().st_size, _digest(path)] for path in files})
    flush(manifest)
    flush(folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        # hashlib.file_digest needs Python 3.11.
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Have a file or folder on the disk, not in the system's memory only."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
