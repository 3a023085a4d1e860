"""Kinds of image data: folders of images and ``.npz`` files of arrays, each with a class for every image."""

import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from fftnet.data.errors import DataError, first_line, listed
from fftnet.data.files import visible_children, walk_files
from fftnet.data.images.pixels import SUFFIXES, LazyImage, lazy_files, lazy_rows

TRAIN, VALID, TEST = "train", "valid", "test"
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    VALID: ("valid", "val", "validation"),
    TEST: ("test", "testing"),
}
"""Split to the names of its folder or arrays."""
IMAGE_WORDS = ("images", "x", "image", "data")
LABEL_WORDS = ("labels", "y", "label", "targets")
NAMES = "class_names"
UNPACKED_BYTES = 2**29
"""Maximum size of an unpacked file, in bytes, if it is more than ``UNPACKED_RATIO`` times the packed size."""
UNPACKED_RATIO = 32
"""Maximum ratio of unpacked to packed size of larger files."""


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
        """Return the images with labels that are indices into other class names."""
        indices = {name: index for index, name in enumerate(class_names)}
        for label in np.unique(self.labels).tolist():
            if self.class_names[label] not in indices:
                name = self.images[int(np.argmax(self.labels == label))].name
                raise DataError(
                    f"{name} has the class {self.class_names[label]!r}, which no training image has (their "
                    f"classes: {listed(class_names)}): correct it or remove the images"
                )
        # A class without an image may be unknown: its entry is never read.
        table = np.array([indices.get(name, -1) for name in self.class_names], dtype=np.int64)
        return LabelledImages(self.images, table[self.labels], tuple(class_names))


class ImageKind(NamedTuple):
    """A kind of image data; its functions take an existing path, the last two raise ``DataError``."""

    label: str
    """Name in help and error messages."""
    recognises: Callable[[Path], bool]
    """Test for a file or folder of this kind."""
    read: Callable[[Path], dict[str, LabelledImages]]
    """Reader of labelled images by split (train, valid, test); data without splits are all train."""
    read_unlabelled: Callable[[Path], list[LazyImage]]
    """Reader of images alone, with or without labels next to them."""


def read_folder(path: Path) -> dict[str, LabelledImages]:
    """Read ``PATH/CLASS/*.png``, or ``PATH/train/CLASS/*.png`` next to ``valid`` and ``test``."""
    if not path.is_dir():
        raise DataError(f"{path} is one image: name a folder with a folder of images for each class")
    folders = {}
    for split, words in SPLIT_WORDS.items():
        # A folder without folders in it is a class that has the name of a split.
        named = (path / word for word in words if (path / word).is_dir() and _class_folders(path / word))
        if folder := next(named, None):
            folders[split] = folder
    return {split: _read_classes(folder) for split, folder in (folders or {TRAIN: path}).items()}


def _class_folders(path: Path) -> list[Path]:
    return [child for child in visible_children(path) if child.is_dir()]


def _read_classes(path: Path) -> LabelledImages:
    found = {folder.name: files for folder in _class_folders(path) if (files := walk_files(folder, SUFFIXES))}
    if not found:
        raise DataError(
            f"the folder {path} holds no classes: make a folder for each class in it, with its images "
            f"({' '.join(SUFFIXES)})"
        )
    images = lazy_files([file for files in found.values() for file in files])
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(files) for files in found.values()])
    return LabelledImages(images, labels, tuple(found))


def read_files(path: Path) -> list[LazyImage]:
    """Read all images below a folder, or one image."""
    paths = walk_files(path, SUFFIXES) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"the folder {path} holds no image ({' '.join(SUFFIXES)})")
    return lazy_files(paths)


def read_npz(path: Path) -> dict[str, LabelledImages]:
    """Read arrays ``images`` and ``labels``, or ``x`` and ``y``, alone or for each split (``x_train``)."""
    arrays = _load(path)
    names = arrays.get(NAMES)
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
        raise DataError(f"{path}: {NAMES} must be strings (K,), got {names.dtype} of shape {names.shape}")
    class_names = None if names is None else _class_texts(names, path)
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
        splits[split] = _labelled(lazy_rows(images, str(path)), labels, class_names, path)
    if not splits:
        raise _missing(path, arrays, "images")
    return splits


def read_npz_images(path: Path) -> list[LazyImage]:
    """Read the images without a split, else those of the test, validation or training split."""
    arrays = _load(path)
    for split in ("", TEST, VALID, TRAIN):
        images = _find(arrays, IMAGE_WORDS, SPLIT_WORDS.get(split, ("",)))
        if images is not None:
            return lazy_rows(images, str(path))
    raise _missing(path, arrays, "images")


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays, under lower-case names; a decompression bomb is refused before it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            size, unpacked = path.stat().st_size, sum(member.file_size for member in members)
            if unpacked > max(UNPACKED_BYTES, UNPACKED_RATIO * size):
                raise DataError(
                    f"{path} has {size / 1e6:,.1f} MB and unpacks to {unpacked / 1e9:,.1f} GB, more than "
                    f"{UNPACKED_RATIO} times as much: unpack it yourself if you trust it"
                )
            # No member gives more bytes than the directory of the archive states.
            return {
                member.filename.removesuffix(".npy").lower(): _array(archive.read(member), path)
                for member in members
            }
    except DataError:
        raise
    # The readers of archives, their compressions and of headers have no common error for damage.
    except Exception as error:
        raise DataError(f"{path} is no complete .npz file ({first_line(error)}): write it again") from error


def _array(data: bytes, path: Path) -> np.ndarray:
    """Return the array in an ``.npy`` file as a view of its bytes."""
    stream = BytesIO(data)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array has the version {version[0]}.{version[1]} of the format, not 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"{path} holds an array of Python objects, as images of several sizes make one: resize them to "
            "one size, or save them as files in a folder for each class"
        )
    # reshape would take a negative size for an unknown one.
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has the shape {shape}")
    # A view allocates nothing: a header that states too large a shape is an error.
    array = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return array.reshape(shape, order="F" if fortran_order else "C")


def _find(arrays: Mapping[str, np.ndarray], kinds: Sequence[str], words: Sequence[str]) -> np.ndarray | None:
    """Return the first array with one of the names, such as ``x``, ``x_train`` or ``train_x``."""
    for kind, word in product(kinds, words):
        for name in (f"{kind}_{word}", f"{word}_{kind}") if word else (kind,):
            if name in arrays:
                return arrays[name]
    return None


def _missing(path: Path, arrays: Mapping[str, np.ndarray], part: str) -> DataError:
    return DataError(
        f"{path} has no {part}: it holds {', '.join(arrays) or 'nothing'}, but needs images and labels, or "
        "x and y, alone or as x_train, y_train, x_test, y_test"
    )


def _labelled(
    images: Sequence[LazyImage], labels: np.ndarray, names: tuple[str, ...] | None, path: Path
) -> LabelledImages:
    """Join N images with integers or strings (N,) or (N, 1); ``names`` are the classes of integers."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),):
        raise DataError(
            f"{path} has {len(images)} images and labels of shape {labels.shape}: give one label for each"
        )
    if labels.dtype.kind not in "iubUS":
        raise DataError(f"{path}: labels must be integers or strings, got {labels.dtype}")
    if names is not None and labels.dtype.kind in "iub":
        outside = labels[(labels < 0) | (labels >= len(names))]
        if len(outside):
            raise DataError(f"{path} has {len(names)} class_names, but a label {outside[0]}")
        return LabelledImages(images, labels.astype(np.int64), names)
    # Without names, classes are the different labels in sorted order.
    found, indices = np.unique(labels, return_inverse=True)
    return LabelledImages(images, indices.astype(np.int64), _class_texts(found, path))


def _class_texts(labels: np.ndarray, path: Path) -> tuple[str, ...]:
    """Convert different labels to class names."""
    try:
        names = tuple(
            label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
            for label in labels.tolist()
        )
        "".join(names).encode("utf-8")
    # NumPy raises SystemError for a character beyond Unicode.
    except (ValueError, SystemError) as error:
        raise DataError(f"{path}: a class name is no Unicode text ({error}): rename the class") from error
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two classes have the same name, rename one: {listed(names)}")
    return names


KINDS: dict[str, ImageKind] = {
    "npz": ImageKind(
        "an .npz file of images and labels",
        lambda path: path.suffix.lower() == ".npz" and path.is_file(),
        read_npz,
        read_npz_images,
    ),
    "folder": ImageKind(
        "a folder with a folder of images for each class",
        lambda path: path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES),
        read_folder,
        read_files,
    ),
}
"""Kinds of image data by name; the first that recognises a file or folder reads it."""


def describe_kinds() -> str:
    """Return all kinds in words, for help and error messages."""
    return " or ".join(kind.label for kind in KINDS.values())


def find_kind(word: str) -> ImageKind:
    """Return the kind of image data that a word of ``--data`` names."""
    path = Path(word)
    if not path.exists():
        raise DataError(f"{word} does not exist: name {describe_kinds()}")
    # A folder of MNIST's files in the IDX format would otherwise be reported as one without classes.
    files = visible_children(path) if path.is_dir() else [path]
    if any(re.fullmatch(r".+[.-]idx\d-ubyte(\.gz)?", file.name, re.IGNORECASE) for file in files):
        raise DataError(f"{word} holds IDX files, which are not read: convert them to {describe_kinds()}")
    for kind in KINDS.values():
        if kind.recognises(path):
            return kind
    raise DataError(f"{word} holds no images: name {describe_kinds()}")
