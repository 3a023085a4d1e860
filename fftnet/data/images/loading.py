"""From a word of ``--data`` to training, validation and test images in the form of a model."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data import splits as parts
from fftnet.data.config import DataConfig
from fftnet.data.digest import digest_items
from fftnet.data.errors import DataError
from fftnet.data.images import TEST, TRAIN, VALID, LabelledImages, Pixels, describe_kinds, find_kind
from fftnet.data.images.pixels import ImageArray, JoinedImages
from fftnet.data.images.processor import ImageProcessor, measured
from fftnet.data.labelled import stratified_split

MEASURED = 4096
"""Of more images that are not held in memory, so many tell mean and standard deviation."""
MAX_OWN_SIDE = 1024
"""Maximum pixels of a side of images that are read as they are; larger ones need an image size."""


class ImageData(NamedTuple):
    """Images to train, validate and test with, which share nothing but their classes."""

    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages
    processor: ImageProcessor
    """The size and channels of all, with mean and standard deviation of the training images."""
    digest: str
    """Digest of all images and labels, see ``fftnet.data.images.pixels.Pixels.key``."""


def load_images(
    config: DataConfig,
    *,
    image_size: int | None = None,
    valid_data: str | None = None,
    test_data: str | None = None,
) -> ImageData:
    """Read and divide what the configuration names.

    Args:
        config: one source, fractions and seed of what is held out where there is no such split, and how much
            may be held in memory.
        image_size: pixels of a side; None: that of the images.
        valid_data: another source to validate with.
        test_data: another source to test with.

    Raises:
        DataError: if a source can't be read, there are fewer than two classes, another split has images of
            a class that training lacks, or the images have no one size and none is asked for.
    """
    source = _only_source(config)
    found = _found(source, valid_data, test_data)
    digest = _digest(found)
    splits = _divided(found, config, source)
    train = splits[TRAIN]
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{source} holds one class, {train.class_names[0]!r}: there is nothing to tell apart")
    size = image_size or _size(train.pixels, source)
    channels = 1 if train.pixels.grey else 3
    count = sum(len(images.labels) for images in splits.values())
    held = count * size * size * channels <= config.in_memory_mb * 1e6
    if held:
        splits = {name: in_memory(images, size, channels) for name, images in splits.items()}
    pixels = splits[TRAIN].pixels
    rows = np.arange(len(pixels))
    if not held and len(rows) > MEASURED:
        rows = np.linspace(0, len(rows) - 1, MEASURED).astype(np.int64)
    processor = measured(pixels, rows, size, channels)
    return ImageData(splits[TRAIN], splits[VALID], splits[TEST], processor, digest)


def load_test_images(
    config: DataConfig,
    class_names: Sequence[str],
    *,
    valid_data: str | None = None,
    test_data: str | None = None,
    whole: bool,
) -> tuple[LabelledImages, str]:
    """Return the images that a trained model is measured on, with its classes, and a digest of all images.

    Args:
        config: one source, and how it is divided: as in training, or images of training are among them.
        class_names: of the model.
        valid_data: as in training.
        test_data: as in training.
        whole: all images of the source, not the test split.

    Raises:
        DataError: if a source can't be read, or an image is of no class of the model.
    """
    source = _only_source(config)
    if whole:
        found = find_kind(source).read(Path(source))
        return _joined([images.named_as(class_names) for images in found.values()]), _digest(found)
    found = _found(source, valid_data, test_data)
    test = found[TEST] if TEST in found else _divided(found, config, source)[TEST]
    return test.named_as(class_names), _digest(found)


def in_memory(images: LabelledImages, size: int, channels: int) -> LabelledImages:
    """The same images, read once and held in the form of the model.

    Raises:
        DataError: naming an image that can't be read.
    """
    pixels = images.pixels.read(np.arange(len(images.labels)), size, channels)
    return images._replace(pixels=ImageArray(pixels, "images in memory"))


def _only_source(config: DataConfig) -> str:
    if len(config.data) != 1:
        raise DataError(f"images come from one source, got {', '.join(config.data)}: name {describe_kinds()}")
    if config.synthetic:
        raise DataError(f"--data must name the images: {describe_kinds()}")
    return config.data[0]


def _found(source: str, valid_data: str | None, test_data: str | None) -> dict[str, LabelledImages]:
    """The splits that are named or lie in the source."""
    found = find_kind(source).read(Path(source))
    for split, word in ((VALID, valid_data), (TEST, test_data)):
        if word is not None:
            found[split] = _of_split(find_kind(word).read(Path(word)), split, word)
    return found


def _digest(found: Mapping[str, LabelledImages]) -> str:
    return digest_items(
        item
        for split in sorted(found)
        for number, label in enumerate(found[split].labels.tolist())
        for item in (
            split.encode(),
            os.fsencode(found[split].class_names[label]),
            found[split].pixels.key(number),
        )
    )


def _of_split(found: Mapping[str, LabelledImages], split: str, word: str) -> LabelledImages:
    """The images of a source that is named for one split."""
    if split in found:
        return found[split]
    if len(found) > 1:
        raise DataError(
            f"{word} holds {' and '.join(found)} images, but no {split} ones: name the right part"
        )
    return next(iter(found.values()))


def _divided(
    found: Mapping[str, LabelledImages], config: DataConfig, source: str
) -> dict[str, LabelledImages]:
    """All three splits: those that were found, and what is held out of the training images for the others."""
    if TRAIN not in found:
        raise DataError(f"{source} has no training images: it holds those of {', '.join(found)} alone")
    train = found[TRAIN]
    names = train.class_names
    splits = {split: images.named_as(names) for split, images in found.items()}
    part_N = stratified_split(
        [names[label] for label in train.labels.tolist()],
        map(train.pixels.key, range(len(train.pixels))),
        valid_fraction=0.0 if VALID in splits else config.valid_fraction,
        test_fraction=0.0 if TEST in splits else config.test_fraction,
        seed=config.data_seed,
    )
    for split, part in ((VALID, parts.VALID), (TEST, parts.TEST)):
        if split not in splits:
            splits[split] = train.chosen(np.flatnonzero(part_N == part))
    splits[TRAIN] = train.chosen(np.flatnonzero(part_N == parts.TRAIN))
    return splits


def _size(pixels: Pixels, source: str) -> int:
    if pixels.size is None or pixels.size[0] != pixels.size[1] or pixels.size[0] > MAX_OWN_SIDE:
        shape = "several sizes" if pixels.size is None else f"{pixels.size[1]} x {pixels.size[0]} pixels"
        raise DataError(
            f"the images of {source} are of {shape}: say with --image_classification.image_size to which "
            "square they are stretched"
        )
    return pixels.size[0]


def _joined(parts: Sequence[LabelledImages]) -> LabelledImages:
    if len(parts) == 1:
        return parts[0]
    labels = np.concatenate([part.labels for part in parts])
    return LabelledImages(JoinedImages([part.pixels for part in parts]), labels, parts[0].class_names)
