"""Arrays of images and labels in one ``.npz`` file."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fftnet.data.errors import DataError
from fftnet.data.images.base import (
    SPLIT_WORDS,
    TRAIN,
    ImageKind,
    LabelledImages,
    check_unpacked,
    class_texts,
    labelled,
)
from fftnet.data.images.pixels import ImageArray, Pixels
from fftnet.data.sources.base import first_line

IMAGE_WORDS = ("images", "x", "image", "data")
LABEL_WORDS = ("labels", "y", "label", "targets")
NAMES = "class_names"
SUFFIX = ".npy"
"""File extension of the arrays in the archive."""


class ImageArrays(ImageKind):
    """Arrays ``images`` and ``labels``, or ``x`` and ``y``, each alone or for each split (``x_train``)."""

    label = "an .npz file of images and labels"

    def recognises(self, path: Path) -> bool:
        """A file with that suffix."""
        return path.suffix.lower() == ".npz" and path.is_file()

    def read(self, path: Path) -> dict[str, LabelledImages]:
        """Split to its images; where the names of the arrays know no split, all are train.

        Raises:
            DataError: if the file is damaged, or has no images with a label each.
        """
        arrays = _load(path)
        names = _class_names(arrays, path)
        splits = {}
        for split, words in SPLIT_WORDS.items():
            images = _find(arrays, IMAGE_WORDS, words)
            if images is None and split == TRAIN:
                words = ("",)
                images = _find(arrays, IMAGE_WORDS, words)
            if images is None:
                continue
            labels = _find(arrays, LABEL_WORDS, words)
            if labels is None:
                raise _lacks(path, arrays, f"labels of its {split} images" if words != ("",) else "labels")
            splits[split] = labelled(ImageArray(images, str(path)), labels, names, str(path))
        if not splits:
            raise _lacks(path, arrays, "images")
        return splits

    def read_pixels(self, path: Path) -> Pixels:
        """The images, those of the test split where there are several.

        Raises:
            DataError: if the file is damaged or has no images.
        """
        arrays = _load(path)
        for words in (("",), *reversed([*SPLIT_WORDS.values()])):
            images = _find(arrays, IMAGE_WORDS, words)
            if images is not None:
                return ImageArray(images, str(path))
        raise _lacks(path, arrays, "images")


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays, under lower-case names; all headers are checked before any array is allocated."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(SUFFIX)]
            check_unpacked(path, sum(_promised(path, archive, member) for member in members))
            arrays = {}
            for member in members:
                with archive.open(member) as stream:
                    array = npy.read_array(stream, allow_pickle=False)
                arrays[member.filename.removesuffix(SUFFIX).lower()] = array
            return arrays
    except DataError:
        raise
    # The readers of archives, their compressions and of headers have no common error for damage.
    except Exception as error:
        raise DataError(f"{path} is no whole .npz file ({first_line(error)}): make it again") from error


def _promised(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the bytes of an array by its header, which must be there by the archive's directory."""
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise DataError(
            f"{path} holds an array of Python objects, as images of several sizes make one: resize them to "
            "one size, or save them as files in a folder for each class"
        )
    if min(shape, default=0) < 0 or not dtype.itemsize:
        raise ValueError(f"{member.filename} has the shape {shape} of {dtype}, which no array has")
    count = math.prod(shape) * dtype.itemsize
    if count > member.file_size - start:
        raise ValueError(f"{member.filename} promises {count} bytes, {member.file_size - start} follow")
    return count


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array has the version {version[0]}.{version[1]} of the format, not 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _find(arrays: dict[str, np.ndarray], kinds: Sequence[str], words: Sequence[str]) -> np.ndarray | None:
    for kind in kinds:
        for word in words:
            for name in (f"{kind}_{word}", f"{word}_{kind}") if word else (kind,):
                if name in arrays:
                    return arrays[name]
    return None


def _class_names(arrays: dict[str, np.ndarray], path: Path) -> tuple[str, ...] | None:
    names = arrays.get(NAMES)
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: {NAMES} must be strings (K,), got {names.dtype} of shape {names.shape}")
    return class_texts(names, str(path))


def _lacks(path: Path, arrays: dict[str, np.ndarray], what: str) -> DataError:
    return DataError(
        f"{path} has no {what}: it holds {', '.join(arrays) or 'nothing'}, wanted are images and labels, or "
        "x and y, alone or as x_train, y_train, x_test, y_test"
    )
