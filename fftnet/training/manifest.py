"""Folders of checkpoints: found, ordered by step, sealed by a manifest of checksums, and verified.

Loading a model needs this module of training and no other, so that nothing slow is imported here.
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
UNFINISHED = re.compile(r"step-\d+\.tmp")
"""Name of a checkpoint while it is written."""
REPLACED = re.compile(r"(step-\d+)\.replaced")
"""Name of a checkpoint while another one replaces it."""


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint's folder, None for any other name."""
    found = re.fullmatch(r"step-(\d+)", name)
    return int(found[1]) if found else None


def is_sealed(path: Path) -> bool:
    """Return whether a folder has a manifest; a run deletes no folder without one."""
    return not path.is_symlink() and os.path.lexists(path / MANIFEST_FILE)


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run without verifying them, the highest step first.

    A folder counts if it has a manifest, or weights (it may have lost the manifest). The order is that of the
    steps in the names: clocks may be wrong, and copies change times.
    """
    steps = {path: step_of(path.name) for path in folder.glob("step-*")}
    found = [
        path
        for path, step in steps.items()
        if step is not None and (is_sealed(path) or (path / WEIGHTS_FILE).is_file())
    ]
    return sorted(found, key=lambda path: (steps[path], path.name), reverse=True)


def newest_checkpoint(root: Path) -> Path:
    """Return the checkpoint of the newest run under a folder: its best one, or the one of the highest step.

    The newest run is the one whose last checkpoint was written last.
    """
    runs: dict[Path, list[Path]] = {}
    # Path.rglob fails if a run deletes a folder at the same time.
    for place, _, files in os.walk(root):
        folder = Path(place)
        unfinished = UNFINISHED.fullmatch(folder.name) or REPLACED.fullmatch(folder.name)
        if {WEIGHTS_FILE, CONFIG_FILE} <= set(files) and not unfinished:
            run = folder if step_of(folder.name) is None else folder.parent
            runs.setdefault(run, []).append(folder)
    if not runs:
        raise CheckpointError(
            f"no checkpoint under {root}/: train a model with fftnet train --data my.txt, or try the one of "
            "the repository with fftnet generate models/shakespeare"
        )
    last = {run: max(found, key=lambda path: step_of(path.name) or 0) for run, found in runs.items()}
    newest = max(last, key=lambda run: (_written(last[run]), run))
    # The link best is missing after a copy without links, or in a run that never evaluated.
    best = newest / BEST
    return best if (best / WEIGHTS_FILE).is_file() else last[newest]


def _written(folder: Path) -> int:
    """Return the time of the weights in nanoseconds, 0 if a run has just deleted them."""
    try:
        return (folder / WEIGHTS_FILE).stat().st_mtime_ns
    except OSError:
        return 0


def verify(folder: Path, required: Sequence[str] = (WEIGHTS_FILE,)) -> None:
    """Check a checkpoint against its manifest, which must name the required files."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist: name the folder of a checkpoint")
    # A model is loaded by its configuration, which must therefore be covered by the checksums.
    configuration = [CONFIG_FILE] if os.path.lexists(folder / CONFIG_FILE) else []
    for name, (size, digest) in _read_manifest(folder / MANIFEST_FILE, [*required, *configuration]).items():
        path = folder / name
        problem = None
        try:
            status = path.stat()
            # Reading a pipe may wait forever, and a device may have no end.
            if not stat.S_ISREG(status.st_mode):
                problem = "damaged, take another checkpoint: it is not a regular file"
            elif status.st_size != size:
                problem = f"truncated, take another checkpoint: {status.st_size} of {size} bytes"
            elif _digest(path) != digest:
                problem = "damaged, take another checkpoint: its checksum differs"
        except OSError as error:
            raise CheckpointError(f"{path} is missing: take another checkpoint") from error
        if problem is not None:
            raise CheckpointError(f"{path} is {problem}")


def _read_manifest(manifest: Path, required: Sequence[str]) -> dict[str, list[Any]]:
    files = serialization.read_json(manifest)
    problem = None
    if not isinstance(files, dict) or not files:
        problem = "it names no files"
    # A name with a path could point outside the checkpoint.
    elif wrong := [
        name
        for name, entry in files.items()
        if not (serialization.is_file_name(name) and isinstance(entry, list) and len(entry) == 2)
    ]:
        problem = f"see its entry {wrong[0]!r}"
    elif missing := [name for name in required if name not in files]:
        problem = f"it does not name {missing[0]}"
    if problem is not None:
        raise CheckpointError(f"{manifest} is damaged, take another checkpoint: {problem}")
    return files


def seal(folder: Path) -> None:
    """Write the manifest of all files of a folder, and flush them to the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    # Files first, then the manifest: a manifest on the disk proves that its files are complete.
    for path in files:
        flush(path)
    manifest = folder / MANIFEST_FILE
    serialization.write_json(manifest, {path.name: [path.stat().st_size, _digest(path)] for path in files})
    flush(manifest)
    flush(folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Write a file or folder from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
