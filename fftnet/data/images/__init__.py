"""Kinds of image data: a new one is a file here and a line in the table."""

import re
from pathlib import Path

from fftnet.data.errors import DataError
from fftnet.data.files import visible_children
from fftnet.data.images.arrays import ARRAYS
from fftnet.data.images.base import ImageKind
from fftnet.data.images.folder import FOLDER

KINDS: dict[str, ImageKind] = {"npz": ARRAYS, "folder": FOLDER}
"""Kinds of image data by name; the first that recognises a file or folder reads it."""
IDX_NAME = re.compile(r".+[.-]idx\d-ubyte(\.gz)?", re.IGNORECASE)
"""Names of files in the IDX format of MNIST, which is not read."""


def describe_kinds() -> str:
    """Return all kinds in words, for help and error messages."""
    return " or ".join(kind.label for kind in KINDS.values())


def find_kind(word: str) -> ImageKind:
    """Return the kind of image data that a word of ``--data`` names.

    Raises:
        DataError: if the file or folder is missing or holds no images that can be read.
    """
    path = Path(word)
    if not path.exists():
        raise DataError(f"{word} is not there: name {describe_kinds()}")
    if any(IDX_NAME.fullmatch(file.name) for file in (visible_children(path) if path.is_dir() else [path])):
        raise DataError(f"{word} holds IDX files, which are not read: convert them to {describe_kinds()}")
    for kind in KINDS.values():
        if kind.recognises(path):
            return kind
    raise DataError(f"{word} holds no images: name {describe_kinds()}")
