"""Arrays of images and labels in one ``.npz`` file."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fftnet.data.errors import DataError, first_line
from fftnet.data.images.base import SPLIT_WORDS, TRAIN, ImageKind, LabelledImages, class_texts, labelled
from fftnet.data.images.pixels import LazyImage, lazy_rows

IMAGE_WORDS = ("images", "x", "image", "data")
LABEL_WORDS = ("labels", "y", "label", "targets")
NAMES = "class_names"
SUFFIX = ".npy"
"""File extension of the arrays in the archive."""
UNPACKED_BYTES = 2**29
"""Maximum size of an unpacked file, in bytes, if it is more than ``UNPACKED_RATIO`` times the packed size."""
UNPACKED_RATIO = 32
"""Maximum ratio of unpacked to packed size of larger files."""


def _recognises(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and path.is_file()


def read_arrays(path: Path) -> dict[str, LabelledImages]:
    """Read arrays ``images`` and ``labels``, or ``x`` and ``y``, alone or for each split (``x_train``).

    Raises:
        DataError: if the file is damaged, or has no images with a label each.
    """
    arrays = _load(path)
    names = arrays.get(NAMES)
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
        raise DataError(f"{path}: {NAMES} must be strings (K,), got {names.dtype} of shape {names.shape}")
    class_names = None if names is None else class_texts(names, str(path))
    splits = {}
    for split, words in SPLIT_WORDS.items():
        images = _find(arrays, IMAGE_WORDS, words)
        if images is None and split == TRAIN:
            # Arrays that name no split are training images.
            words = ("",)
            images = _find(arrays, IMAGE_WORDS, words)
        if images is None:
            continue
        labels = _find(arrays, LABEL_WORDS, words)
        if labels is None:
            raise _missing(path, arrays, f"labels of its {split} images" if words != ("",) else "labels")
        splits[split] = labelled(lazy_rows(images, str(path)), labels, class_names, str(path))
    if not splits:
        raise _missing(path, arrays, "images")
    return splits


def read_images_alone(path: Path) -> list[LazyImage]:
    """Read the images without a split, else those of the test, validation or training split.

    Raises:
        DataError: if the file is damaged or has no images.
    """
    arrays = _load(path)
    for words in (("",), *reversed(list(SPLIT_WORDS.values()))):
        images = _find(arrays, IMAGE_WORDS, words)
        if images is not None:
            return lazy_rows(images, str(path))
    raise _missing(path, arrays, "images")


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays, under lower-case names; all headers are checked before any array is allocated."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(SUFFIX)]
            _check_unpacked(path, sum(_stated_bytes(path, archive, member) for member in members))
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


def _check_unpacked(path: Path, count: int) -> None:
    """Refuse a decompression bomb by the number of bytes that its headers promise."""
    size = path.stat().st_size
    if count > max(UNPACKED_BYTES, UNPACKED_RATIO * size):
        raise DataError(
            f"{path} has {size / 1e6:,.1f} MB and promises {count / 1e9:,.1f} GB, more than {UNPACKED_RATIO} "
            "times as much: unpack it yourself if you trust it"
        )


def _stated_bytes(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the size of an array in bytes by its header, which the archive's directory must confirm."""
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(
                f"an array has the version {version[0]}.{version[1]} of the format, not 1.0 or 2.0"
            )
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
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


def _find(arrays: Mapping[str, np.ndarray], kinds: Sequence[str], words: Sequence[str]) -> np.ndarray | None:
    """Return the first array with one of the names, such as ``x``, ``x_train`` or ``train_x``."""
    names = (
        name
        for kind in kinds
        for word in words
        for name in ((f"{kind}_{word}", f"{word}_{kind}") if word else (kind,))
    )
    return next((arrays[name] for name in names if name in arrays), None)


def _missing(path: Path, arrays: Mapping[str, np.ndarray], part: str) -> DataError:
    return DataError(
        f"{path} has no {part}: it holds {', '.join(arrays) or 'nothing'}, wanted are images and labels, or "
        "x and y, alone or as x_train, y_train, x_test, y_test"
    )


ARRAYS = ImageKind("an .npz file of images and labels", _recognises, read_arrays, read_images_alone)
