"""The folder of a checkpoint: sealed by a manifest of checksums, verified, and the newest one found.

Loading a model needs this much of training and no more, so that nothing slow is imported here.
"""

import hashlib
import os
from pathlib import Path

from fftnet import serialization
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE, CheckpointError

MANIFEST_FILE = "manifest.json"
"""Name to size in bytes and SHA-256 of every other file of a checkpoint."""
BEST = "best"
LAST = "last"
TRAIN_COMMAND = "python main.py --d_model 128 --num_layers 4 --num_epochs 30 --save_model"


def newest_checkpoint(root: Path) -> Path:
    """The checkpoint of the newest run under a folder: its best one where there is one.

    Raises:
        CheckpointError: if there is none; the sentence says which command makes one.
    """
    found = [path.parent for path in root.rglob(WEIGHTS_FILE) if (path.parent / CONFIG_FILE).is_file()]
    if not found:
        raise CheckpointError(f"no checkpoint under {root}/; make one with: {TRAIN_COMMAND}")
    newest = max(found, key=lambda path: (path / WEIGHTS_FILE).stat().st_mtime)
    best = newest.parent / BEST
    return best if (best / WEIGHTS_FILE).is_file() else newest


def age(folder: Path) -> tuple[int, str]:
    """A key that sorts checkpoints from the oldest to the newest."""
    manifest = folder / MANIFEST_FILE
    return (manifest if manifest.exists() else folder).stat().st_mtime_ns, folder.name


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, truncated or changed.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not there: is it the folder of a checkpoint?")
    manifest = folder / MANIFEST_FILE
    files = serialization.read_json(manifest)
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{manifest} is damaged, take another checkpoint: it names no files")
    for name, entry in files.items():
        path = folder / name
        if not isinstance(entry, list) or len(entry) != 2:
            raise CheckpointError(f"{manifest} is damaged, take another checkpoint: see its entry {name!r}")
        size, digest = entry
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
