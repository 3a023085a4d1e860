"""From a word of ``--data`` to training, validation and test images in the form of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fftnet.data.config import DataConfig
from fftnet.data.errors import DataError
from fftnet.data.images import TEST, TRAIN, VALID, LabelledImages, Pixels, describe_kinds, find_kind
from fftnet.data.images.base import ImageArray
from fftnet.data.images.processor import MEASURED, ImageProcessor, measured
from fftnet.data.stratified import stratified


class ImageData(NamedTuple):
    """Images to train, validate and test with, which share nothing but their classes."""

    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages
    processor: ImageProcessor
    """The size and channels of all, with mean and standard deviation of the training images."""


def load_images(
    config: DataConfig, *, image_size: int | None, valid_data: str | None, test_data: str | None
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
    found = dict(find_kind(source).read(Path(source)))
    if TRAIN not in found:
        raise DataError(f"{source} has no training images: it holds those of {', '.join(found)} alone")
    for split, word in ((VALID, valid_data), (TEST, test_data)):
        if word is not None:
            found[split] = _of_split(find_kind(word).read(Path(word)), split, word)
    splits = _divided(found, config, source)
    train = splits[TRAIN]
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{source} holds one class, {train.class_names[0]!r}: there is nothing to tell apart")
    size = image_size or _size(train.pixels, source)
    channels = 1 if all(images.pixels.grey for images in splits.values()) else 3
    count = sum(len(images.labels) for images in splits.values())
    if count * size * size * channels <= config.in_memory_mb * 1e6:
        splits = {name: in_memory(images, size, channels) for name, images in splits.items()}
    return ImageData(
        splits[TRAIN],
        splits[VALID],
        splits[TEST],
        measured(train.pixels, size, channels, _sample(splits[TRAIN].pixels)),
    )


def load_test_images(
    config: DataConfig, class_names: tuple[str, ...], *, whole: bool, test_data: str | None = None
) -> LabelledImages:
    """The images that a trained model is measured on.

    Args:
        config: one source, and how it was divided in training.
        class_names: of the model.
        whole: all of the images, not the test split.
        test_data: another source that was tested with in training.

    Raises:
        DataError: if the source can't be read, or an image is of no class of the model.
    """
    raise NotImplementedError


def in_memory(images: LabelledImages, size: int, channels: int) -> LabelledImages:
    """The same images, read once and held in the form of the model.

    Raises:
        DataError: naming an image that can't be read.
    """
    pixels = images.pixels.read(np.arange(len(images.labels)), size, channels)
    return images._replace(pixels=ImageArray(pixels, "images in memory"))
