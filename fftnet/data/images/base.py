"""What all kinds of image data come to: images with a class each, by split."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data.errors import DataError, listed
from fftnet.data.images.pixels import ChosenImages, Pixels

TRAIN = "train"
VALID = "valid"
TEST = "test"
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    VALID: ("valid", "val", "validation"),
    TEST: ("test", "testing"),
}
"""Split to the words by which folders and arrays are known to belong to it."""
UNPACKED_BYTES = 2**29
"""Maximum size of an unpacked file, in bytes, if it is more than ``UNPACKED_RATIO`` times the packed size."""
UNPACKED_RATIO = 32
"""Maximum ratio of unpacked to packed size of larger files."""


class LabelledImages(NamedTuple):
    """Images with a class each."""

    pixels: Pixels
    labels: np.ndarray
    """int64 (N,), places in the class names."""
    class_names: tuple[str, ...]

    def chosen(self, rows: np.ndarray) -> "LabelledImages":
        """Some of the images, by their numbers."""
        return self._replace(pixels=ChosenImages(self.pixels, rows), labels=self.labels[rows])

    def named_as(self, class_names: Sequence[str]) -> "LabelledImages":
        """The same images with the classes numbered as in ``class_names``.

        Raises:
            DataError: naming an image that is of another class.
        """
        places = {name: place for place, name in enumerate(class_names)}
        for label in np.unique(self.labels).tolist():
            if self.class_names[label] not in places:
                name = self.pixels.name(int(np.argmax(self.labels == label)))
                raise DataError(
                    f"{name} is of the class {self.class_names[label]!r}, which no image of training is "
                    f"(they are of {listed(class_names)}): correct it or take the images away"
                )
        table = np.array([places.get(name, -1) for name in self.class_names], dtype=np.int64)
        return LabelledImages(self.pixels, table[self.labels], tuple(class_names))


def check_unpacked(path: Path, count: int) -> None:
    """Refuse a decompression bomb before it is unpacked.

    Args:
        path: a compressed file.
        count: bytes that its headers promise.

    Raises:
        DataError: if these are many, and far more than the size of the file.
    """
    size = path.stat().st_size
    if count > max(UNPACKED_BYTES, UNPACKED_RATIO * size):
        raise DataError(
            f"{path} has {size / 1e6:,.1f} MB and promises {count / 1e9:,.1f} GB, more than {UNPACKED_RATIO} "
            "times as much: unpack it yourself if you trust it"
        )


def labelled(pixels: Pixels, labels: np.ndarray, names: Sequence[str] | None, source: str) -> LabelledImages:
    """Images with labels as they stand in a file.

    Args:
        pixels: N images.
        labels: integers or strings (N,) or (N, 1).
        names: class names that integers are places in; None: a class is called by its label.
        source: where they come from, for messages.

    Raises:
        DataError: if there are not as many labels as images, or a label is no class.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(pixels),):
        raise DataError(
            f"{source} has {len(pixels)} images and labels of shape {labels.shape}: give one each"
        )
    if labels.dtype.kind not in "iubUS":
        raise DataError(f"{source}: labels must be integers or strings, got {labels.dtype}")
    if names is not None and labels.dtype.kind in "iub":
        outside = labels[(labels < 0) | (labels >= len(names))]
        if len(outside):
            raise DataError(f"{source} has {len(names)} class_names, but a label {outside[0]}")
        return LabelledImages(pixels, labels.astype(np.int64), tuple(names))
    found, places = np.unique(labels, return_inverse=True)
    return LabelledImages(pixels, places.astype(np.int64), class_texts(found, source))


def class_texts(labels: np.ndarray, source: str) -> tuple[str, ...]:
    """Convert different labels to class names.

    Raises:
        DataError: if one is no Unicode text, or two have the same name.
    """
    try:
        names = tuple(_text(label) for label in labels.tolist())
        "".join(names).encode("utf-8")
    # NumPy raises the second where a character lies beyond Unicode.
    except (ValueError, SystemError) as error:
        raise DataError(f"{source}: a class name is no Unicode text ({error}): rename the class") from error
    if len(set(names)) < len(names):
        raise DataError(f"{source}: two classes have the same name, rename one: {listed(names)}")
    return names


def _text(label: object) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


class ImageKind(ABC):
    """A kind of image data."""

    label: str
    """What a message calls it."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether an existing file or folder is of this kind."""

    @abstractmethod
    def read(self, path: Path) -> dict[str, LabelledImages]:
        """Split (train, valid or test) to its images; where nothing is said of splits, all are train.

        Raises:
            DataError: if they can't be read, or have no labels.
        """

    @abstractmethod
    def read_pixels(self, path: Path) -> Pixels:
        """All images, be there labels or not.

        Raises:
            DataError: if they can't be read.
        """
