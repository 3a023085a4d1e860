"""The table of kinds of image data, and how a word of ``--data`` is looked up in it."""

from pathlib import Path

from fftnet.data.errors import DataError
from fftnet.data.images.arrays import ImageArrays
from fftnet.data.images.base import TEST, TRAIN, VALID, ImageKind, LabelledImages
from fftnet.data.images.folder import ImageFolder
from fftnet.data.images.idx import IdxFiles
from fftnet.data.images.pixels import Pixels

__all__ = [
    "KINDS",
    "TEST",
    "TRAIN",
    "VALID",
    "ImageKind",
    "LabelledImages",
    "Pixels",
    "describe_kinds",
    "find_kind",
]

KINDS: dict[str, ImageKind] = {
    "npz": ImageArrays(),
    "idx": IdxFiles(),
    "folder": ImageFolder(),
}
"""Kinds of image data by name; the first that recognises a file or folder reads it."""


def describe_kinds() -> str:
    """All kinds in words, for help and error texts."""
    return ", ".join(kind.label for kind in KINDS.values())


def find_kind(word: str) -> ImageKind:
    """The kind of image data that a word names.

    Raises:
        DataError: if there is no such file or folder, or it is of no kind.
    """
    path = Path(word)
    if not path.exists():
        raise DataError(f"{word} is not there: name {describe_kinds()}")
    for kind in KINDS.values():
        if kind.recognises(path):
            return kind
    raise DataError(f"{word} holds no images: name {describe_kinds()}")
