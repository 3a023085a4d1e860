"""A folder for each class, in a folder for each split if you like."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.images.base import SPLIT_WORDS, TEST, TRAIN, VALID, ImageKind, LabelledImages
from fftnet.data.images.decoding import SUFFIXES, read_header
from fftnet.data.images.pixels import ImageFiles, Pixels
from fftnet.data.walk import visible_children, walk_files


class ImageFolder(ImageKind):
    """``FOLDER/CLASS/*.png`` or ``FOLDER/train/CLASS/*.png`` beside ``valid`` and ``test``; or one image."""

    label = "a folder with a folder of images for each class"

    def recognises(self, path: Path) -> bool:
        """Every folder, and files that are images by their names."""
        return path.is_dir() or (path.is_file() and path.suffix.lower() in SUFFIXES)

    def read(self, path: Path) -> dict[str, LabelledImages]:
        """Split to its images; where there is no folder of that name, all are train.

        Raises:
            DataError: if there are no folders of classes with images, or an image is none.
        """
        if not path.is_dir():
            raise DataError(f"{path} is one image: name a folder with a folder of images for each class")
        folders = {split: found for split in (TRAIN, VALID, TEST) if (found := _split_folder(path, split))}
        if not folders:
            return {TRAIN: _read_classes(path)}
        return {split: _read_classes(folder) for split, folder in folders.items()}

    def read_pixels(self, path: Path) -> Pixels:
        """All images of a folder, however deep, or one image.

        Raises:
            DataError: if there is none, or one is no image.
        """
        paths = walk_files(path, SUFFIXES) if path.is_dir() else [path]
        if not paths:
            raise DataError(f"the folder {path} holds no image ({' '.join(SUFFIXES)})")
        return _files(paths)


def _split_folder(path: Path, split: str) -> Path | None:
    """The folder of a split: one with folders in it, that a class of the same name would not have."""
    for word in SPLIT_WORDS[split]:
        folder = path / word
        if folder.is_dir() and _class_folders(folder):
            return folder
    return None


def _class_folders(path: Path) -> list[Path]:
    return [child for child in visible_children(path) if child.is_dir()]


def _read_classes(path: Path) -> LabelledImages:
    found = {
        folder.name: images for folder in _class_folders(path) if (images := walk_files(folder, SUFFIXES))
    }
    if not found:
        raise DataError(
            f"the folder {path} holds no classes: make a folder for each class in it, with its images "
            f"({' '.join(SUFFIXES)})"
        )
    paths = [image for images in found.values() for image in images]
    labels = np.repeat(np.arange(len(found)), [len(images) for images in found.values()])
    return LabelledImages(_files(paths), labels.astype(np.int64), tuple(found))


def _files(paths: Sequence[Path]) -> ImageFiles:
    with ThreadPoolExecutor() as pool:
        return ImageFiles(paths, list(pool.map(read_header, paths)))
