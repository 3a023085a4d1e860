"""Arrays of images and labels in one ``.npz`` file."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.images.base import SPLIT_WORDS, TRAIN, ImageKind, LabelledImages, labelled
from fftnet.data.images.pixels import ImageArray, Pixels

IMAGE_WORDS = ("images", "x", "image", "data")
LABEL_WORDS = ("labels", "y", "label", "targets")
NAMES = "class_names"


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
    """The arrays, under small letters."""
    try:
        # Opened here, because NumPy leaves a file open that it can't read.
        with path.open("rb") as stream, _checked(stream) as file:
            return {name.lower(): file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path} is no whole .npz file ({error}): make it again") from error
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise DataError(f"{path} is no whole .npz file ({error}): make it again") from error
        raise DataError(
            f"{path} holds an array of Python objects, as images of several sizes make one: resize them to "
            "one size, or save them as files in a folder for each class"
        ) from error


def _checked(stream: BinaryIO) -> Any:
    if not zipfile.is_zipfile(stream):
        raise zipfile.BadZipFile("it is no archive of arrays")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def _find(arrays: dict[str, np.ndarray], kinds: Sequence[str], words: Sequence[str]) -> np.ndarray | None:
    for kind in kinds:
        for word in words:
            for name in (f"{kind}_{word}", f"{word}_{kind}") if word else (kind,):
                if name in arrays:
                    return arrays[name]
    return None


def _class_names(arrays: dict[str, np.ndarray], path: Path) -> list[str] | None:
    names = arrays.get(NAMES)
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: {NAMES} must be strings (K,), got {names.dtype} of shape {names.shape}")
    return names.astype(str).tolist()


def _lacks(path: Path, arrays: dict[str, np.ndarray], what: str) -> DataError:
    return DataError(
        f"{path} has no {what}: it holds {', '.join(arrays) or 'nothing'}, wanted are images and labels, or "
        "x and y, alone or as x_train, y_train, x_test, y_test"
    )
