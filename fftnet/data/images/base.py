"""Images with their classes, and the contract of the kinds of image data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data.errors import DataError, listed
from fftnet.data.images.pixels import LazyImage

TRAIN = "train"
VALID = "valid"
TEST = "test"
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    VALID: ("valid", "val", "validation"),
    TEST: ("test", "testing"),
}
"""Split to the names of its folder or arrays."""


class LabelledImages(NamedTuple):
    """Images with a class each."""

    images: Sequence[LazyImage]
    """N images."""
    labels: np.ndarray
    """int64 (N,), indices into the class names."""
    class_names: tuple[str, ...]

    def take(self, rows: np.ndarray) -> "LabelledImages":
        """Return the images with these indices."""
        return self._replace(images=[self.images[n] for n in rows.tolist()], labels=self.labels[rows])

    def named_as(self, class_names: Sequence[str]) -> "LabelledImages":
        """Return the same images with labels that are indices into other class names.

        Raises:
            DataError: naming an image whose class is not among them.
        """
        indices = {name: index for index, name in enumerate(class_names)}
        for label in np.unique(self.labels).tolist():
            if self.class_names[label] not in indices:
                name = self.images[int(np.argmax(self.labels == label))].name
                raise DataError(
                    f"{name} is of the class {self.class_names[label]!r}, which no image of training is "
                    f"(they are of {listed(class_names)}): correct it or take the images away"
                )
        # A class without an image may be unknown: its entry is never read.
        table = np.array([indices.get(name, -1) for name in self.class_names], dtype=np.int64)
        return LabelledImages(self.images, table[self.labels], tuple(class_names))


class ImageKind(NamedTuple):
    """A kind of image data; all three functions take a path, the last two raise ``DataError``."""

    label: str
    """Name in help and error messages."""
    recognises: Callable[[Path], bool]
    """Test for an existing file or folder of this kind."""
    read: Callable[[Path], dict[str, LabelledImages]]
    """Reader of labelled images by split (train, valid, test); data without splits are all train."""
    read_unlabelled: Callable[[Path], list[LazyImage]]
    """Reader of images alone, with or without labels next to them."""


def labelled(
    images: Sequence[LazyImage], labels: np.ndarray, names: Sequence[str] | None, source: str
) -> LabelledImages:
    """Join images with the labels of a file.

    Args:
        images: N images.
        labels: integers or strings (N,) or (N, 1).
        names: class names that integers are indices into; None: each different label names a class.
        source: file for messages.

    Raises:
        DataError: if there is not one label for each image, or a label is no class.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),):
        raise DataError(
            f"{source} has {len(images)} images and labels of shape {labels.shape}: give one label for each"
        )
    if labels.dtype.kind not in "iubUS":
        raise DataError(f"{source}: labels must be integers or strings, got {labels.dtype}")
    if names is not None and labels.dtype.kind in "iub":
        outside = labels[(labels < 0) | (labels >= len(names))]
        if len(outside):
            raise DataError(f"{source} has {len(names)} class_names, but a label {outside[0]}")
        return LabelledImages(images, labels.astype(np.int64), tuple(names))
    found, indices = np.unique(labels, return_inverse=True)
    return LabelledImages(images, indices.astype(np.int64), class_texts(found, source))


def class_texts(labels: np.ndarray, source: str) -> tuple[str, ...]:
    """Convert different labels to class names.

    Raises:
        DataError: if one is no Unicode text, or two have the same name.
    """
    try:
        names = tuple(
            label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
            for label in labels.tolist()
        )
        "".join(names).encode("utf-8")
    # NumPy raises SystemError for a character beyond Unicode.
    except (ValueError, SystemError) as error:
        raise DataError(f"{source}: a class name is no Unicode text ({error}): rename the class") from error
    if len(set(names)) < len(names):
        raise DataError(f"{source}: two classes have the same name, rename one: {listed(names)}")
    return names
