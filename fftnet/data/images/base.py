"""What all kinds of image data come to: pixels that are read when they are asked for, labels, class names."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.images.decoding import decode, fitted, without_alpha

TRAIN = "train"
VALID = "valid"
TEST = "test"
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    VALID: ("valid", "val", "validation"),
    TEST: ("test", "testing"),
}
"""Split to the words by which folders and arrays are known to belong to it."""


class Pixels(ABC):
    """Images by their number; reading one is all that it costs to hold them."""

    size: tuple[int, int] | None
    """Height and width of all images; None where they differ."""
    grey: bool
    """Whether no image has colours."""

    @abstractmethod
    def __len__(self) -> int:
        """Images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls an image."""

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """One image as it is, uint8 (H, W) or (H, W, 3); DataError if it can't be read."""

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form.

        Args:
            indices: integers (B,).
            size: pixels S of a side that they are resized to.
            channels: C, 1 for grey or 3 for colours, to which they are converted.

        Returns:
            uint8 (B, S, S, C).

        Raises:
            DataError: naming an image that can't be read.
        """
        images = np.empty((len(indices), size, size, channels), dtype=np.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = fitted(self.image(index), size, channels)
        return images


class ImageFiles(Pixels):
    """Files, of which only the headers have been read.

    Args:
        paths: of the images.
        size: height and width of all of them, None where they differ.
        grey: whether all of them are grey.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int] | None, grey: bool) -> None:
        self._paths = paths
        self.size = size
        self.grey = grey

    def __len__(self) -> int:
        """Images."""
        return len(self._paths)

    def name(self, index: int) -> str:
        """The path."""
        return str(self._paths[index])

    def image(self, index: int) -> np.ndarray:
        """One image as it is; DataError if it can't be read."""
        return decode(self._paths[index])

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form, as ``Pixels.read``; decoding leaves Python's lock, so that threads share it."""
        images = np.empty((len(indices), size, size, channels), dtype=np.uint8)

        def read_one(row: int) -> None:
            images[row] = fitted(self.image(int(indices[row])), size, channels)

        with ThreadPoolExecutor() as pool:
            list(pool.map(read_one, range(len(indices))))
        return images


class ImageArray(Pixels):
    """Images in memory.

    Args:
        images: uint8 (N, H, W) or (N, H, W, C) with C of 1, 3 or 4 (colours and opacity).
        source: where they come from, for messages.

    Raises:
        DataError: if they are none.
    """

    def __init__(self, images: np.ndarray, source: str) -> None:
        is_one = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))
        if images.dtype != np.uint8 or not is_one or 0 in images.shape[1:]:
            raise DataError(
                f"{source}: images must be uint8 of shape (N, H, W) or (N, H, W, C) with C of 1, 3 or 4, got "
                f"{images.dtype} of shape {images.shape}"
            )
        self._images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
        self._source = source
        self.size = (images.shape[1], images.shape[2])
        self.grey = self._images.ndim == 3

    def __len__(self) -> int:
        """Images."""
        return len(self._images)

    def name(self, index: int) -> str:
        """Source and row, counted from 0."""
        return f"{self._source} row {index}"

    def image(self, index: int) -> np.ndarray:
        """One image as it is, on white where it is not opaque."""
        return without_alpha(self._images[index])

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form, as ``Pixels.read``; at once where they have it."""
        own = 1 if self.grey else self._images.shape[3]
        if self.size == (size, size) and own == channels:
            return self._images[indices].reshape(len(indices), size, size, channels)
        return super().read(indices, size, channels)


class ChosenImages(Pixels):
    """Some of other images.

    Args:
        pixels: the others.
        rows: integers, which of them.
    """

    def __init__(self, pixels: Pixels, rows: np.ndarray) -> None:
        self._pixels = pixels
        self._rows = rows
        self.size = pixels.size
        self.grey = pixels.grey

    def __len__(self) -> int:
        """Images."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """Their name among the others."""
        return self._pixels.name(int(self._rows[index]))

    def image(self, index: int) -> np.ndarray:
        """One image as it is; DataError if it can't be read."""
        return self._pixels.image(int(self._rows[index]))

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form, as ``Pixels.read``."""
        return self._pixels.read(self._rows[indices], size, channels)


class LabelledImages(NamedTuple):
    """Images with a class each."""

    pixels: Pixels
    labels: np.ndarray
    """int64 (N,), places in the class names."""
    class_names: tuple[str, ...]

    def chosen(self, rows: np.ndarray) -> "LabelledImages":
        """Some of the images, by their numbers."""
        return self._replace(pixels=ChosenImages(self.pixels, rows), labels=self.labels[rows])

    def named_as(self, class_names: Sequence[str], source: str) -> "LabelledImages":
        """The same images with the classes numbered as in ``class_names``.

        Raises:
            DataError: if an image is of another class.
        """
        places = {name: place for place, name in enumerate(class_names)}
        used = np.unique(self.labels).tolist()
        unknown = [self.class_names[label] for label in used if self.class_names[label] not in places]
        if unknown:
            raise DataError(
                f"{source} holds images of the class {unknown[0]!r}, which the training images do not: they "
                f"are of {', '.join(class_names[:20])}{', ...' if len(class_names) > 20 else ''}"
            )
        table = np.array([places.get(name, -1) for name in self.class_names], dtype=np.int64)
        return LabelledImages(self.pixels, table[self.labels], tuple(class_names))


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
    return LabelledImages(pixels, places.astype(np.int64), tuple(_text(label) for label in found.tolist()))


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
