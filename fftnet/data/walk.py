"""Files below a folder, in a fixed order: without hidden ones, through links, no folder twice."""

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def visible_children(folder: Path) -> list[Path]:
    """Return the files and folders directly in a folder, sorted, without hidden ones."""
    return sorted(child for child in folder.iterdir() if not _is_hidden(child.name))


def walk_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files below a folder that have one of the suffixes, sorted.

    Files and folders whose names begin with a dot are skipped. Links to folders are followed; a folder that
    is reached twice is read once, so that a link to a folder above it ends. A folder that can't be read is
    named in the log.

    Args:
        folder: may itself be hidden.
        suffixes: in lower case, with their dots.
    """
    found: list[Path] = []
    seen: set[str] = set()
    # Links are followed last, so that files go by their own paths if these lie below the folder, too.
    roots = [str(folder)]
    for root in roots:
        for place, folders, names in os.walk(root, onerror=_tell):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            roots += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            found += [Path(place, name) for name in names if not _is_hidden(name)]
    return sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())


def places(words: Sequence[str]) -> list[str]:
    """Return what words of ``--data`` name, alike however a path is spelled or linked."""
    return [os.path.realpath(word) if os.path.exists(word) else word for word in words]


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _tell(error: OSError) -> None:
    logger.warning("the folder %s can't be read and is skipped: %s", error.filename, error.strerror)
