"""Folders with a folder of images for each class, optionally in a folder for each split."""

from pathlib import Path

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.files import visible_children, walk_files
from fftnet.data.images.base import SPLIT_WORDS, TRAIN, ImageKind, LabelledImages
from fftnet.data.images.pixels import SUFFIXES, LazyImage, lazy_files


def _recognises(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES)


def read_folder(path: Path) -> dict[str, LabelledImages]:
    """Read ``PATH/CLASS/*.png``, or ``PATH/train/CLASS/*.png`` next to ``valid`` and ``test``.

    Raises:
        DataError: if there are no folders of classes with images, or a file is no image.
    """
    if not path.is_dir():
        raise DataError(f"{path} is one image: name a folder with a folder of images for each class")
    folders = {}
    for split, words in SPLIT_WORDS.items():
        # A folder without folders in it is a class that has the name of a split.
        named = (path / word for word in words if (path / word).is_dir() and _class_folders(path / word))
        if folder := next(named, None):
            folders[split] = folder
    return {split: _read_classes(folder) for split, folder in (folders or {TRAIN: path}).items()}


def read_all(path: Path) -> list[LazyImage]:
    """Read all images below a folder, or one image.

    Raises:
        DataError: if the folder holds no image, or a file is no image.
    """
    paths = walk_files(path, SUFFIXES) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"the folder {path} holds no image ({' '.join(SUFFIXES)})")
    return lazy_files(paths)


def _class_folders(path: Path) -> list[Path]:
    return [child for child in visible_children(path) if child.is_dir()]


def _read_classes(path: Path) -> LabelledImages:
    found = {folder.name: files for folder in _class_folders(path) if (files := walk_files(folder, SUFFIXES))}
    if not found:
        raise DataError(
            f"the folder {path} holds no classes: make a folder for each class in it, with its images "
            f"({' '.join(SUFFIXES)})"
        )
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(files) for files in found.values()])
    return LabelledImages(
        lazy_files([file for files in found.values() for file in files]), labels, tuple(found)
    )


FOLDER = ImageKind("a folder with a folder of images for each class", _recognises, read_folder, read_all)
