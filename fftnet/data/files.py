"""Files below a folder, in a fixed order; places that name the same files; digests of their content."""

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

DIGEST = "data_digest"
"""Field of ``run.json`` and of reports that holds the digest of the content of the data."""
UNVERIFIED = "test, not that of training"
"""Name in a report of a test split that may hold text or rows which trained the model."""

logger = logging.getLogger(__name__)


def digest_items(items: Iterable[bytes]) -> str:
    """Return the SHA-256 of a sequence of items, their lengths included."""
    sha256 = hashlib.sha256()
    for item in items:
        # Without lengths, "ab" + "c" and "a" + "bc" would have the same digest.
        sha256.update(len(item).to_bytes(8, "little"))
        sha256.update(item)
    return sha256.hexdigest()


def places(words: Sequence[str]) -> list[str]:
    """Return canonical names of words of ``--data``: equal for all spellings of a path and links to it."""
    return [os.path.realpath(word) if os.path.exists(word) else word for word in words]


def visible_children(folder: Path) -> list[Path]:
    """Return the files and folders directly in a folder, sorted, without hidden ones."""
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def walk_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files below a folder with these suffixes, sorted; hidden names are skipped."""
    found: list[Path] = []
    seen: set[str] = set()
    # Links are followed last, so that a file which also lies below the folder goes by its own path. A folder
    # that is reached twice is read once, so that a loop of links ends.
    roots = [str(folder)]
    for root in roots:
        for place, folders, names in os.walk(root, onerror=_warn):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            roots += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())


def _warn(error: OSError) -> None:
    logger.warning("the folder %s can't be read and is skipped: %s", error.filename, error.strerror)
