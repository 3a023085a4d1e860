"""From a word of ``--data`` to training, validation and test images, and to batches of them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fftnet.data import splits as parts
from fftnet.data.config import DataConfig
from fftnet.data.errors import DataError
from fftnet.data.files import digest_items
from fftnet.data.images.augmentation import Augmentation, Examples, augmented
from fftnet.data.images.kinds import TEST, TRAIN, VALID, LabelledImages, describe_kinds, find_kind
from fftnet.data.images.pixels import lazy_rows, read_images
from fftnet.data.images.processor import ImageProcessor, measured
from fftnet.data.labelled import stratified_split
from fftnet.data.permutation import EpochOrder
from fftnet.protocols import Batch

MEASURED = 4096
"""Maximum images, of those not held in memory, that are read to measure mean and standard deviation."""


class ImageData(NamedTuple):
    """Images for training, validation and test, which have the same classes and share no image."""

    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages
    processor: ImageProcessor
    """Size, channels, and the mean and standard deviation of the training images."""
    digest: str
    """Digest of all images and labels, see ``fftnet.data.images.pixels.LazyImage.key``."""


def load_images(
    config: DataConfig,
    *,
    image_size: int | None = None,
    valid_data: str | None = None,
    test_data: str | None = None,
) -> ImageData:
    """Read and divide the images of a configuration, at their own size without ``image_size``."""
    source = _only_source(config)
    found = _found(source, valid_data, test_data)
    digest = _digest(found)
    splits = _divided(found, config, source)
    train = splits[TRAIN]
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{source} holds one class, {train.class_names[0]!r}: a classifier needs two")
    # One coloured image makes the model read colours; grey ones are converted.
    size = image_size or _own_size(train, source)
    channels = 1 if all(image.grey for image in train.images) else 3
    count = sum(len(images.labels) for images in splits.values())
    # Images that fit into memory are decoded once, others again for every batch.
    if count * size * size * channels <= config.in_memory_mb * 1e6:
        for name, images in splits.items():
            pixels = read_images(images.images, size, channels)
            splits[name] = images._replace(images=lazy_rows(pixels, "images in memory"))
        sample = splits[TRAIN].images
    else:
        # Evenly spaced, so that sorted data give all classes their share.
        number = len(train.images)
        rows = np.linspace(0, number - 1, min(number, MEASURED)).astype(np.int64)
        sample = train.take(rows).images
    processor = measured(sample, size, channels)
    return ImageData(splits[TRAIN], splits[VALID], splits[TEST], processor, digest)


def load_test_images(
    config: DataConfig,
    class_names: Sequence[str],
    *,
    valid_data: str | None = None,
    test_data: str | None = None,
    whole: bool,
) -> tuple[LabelledImages, str]:
    """Return the test images, or the ``whole`` source, for a trained model, and a digest of all images."""
    source = _only_source(config)
    if whole:
        found = find_kind(source).read(Path(source))
        named = [split.named_as(class_names) for split in found.values()]
        images = [image for split in named for image in split.images]
        labels = np.concatenate([split.labels for split in named])
        return LabelledImages(images, labels, tuple(class_names)), _digest(found)
    found = _found(source, valid_data, test_data)
    # Dividing hashes every image, which a given test split does not need.
    test = found[TEST] if TEST in found else _divided(found, config, source)[TEST]
    return test.named_as(class_names), _digest(found)


def _only_source(config: DataConfig) -> str:
    if len(config.data) != 1:
        raise DataError(f"images come from one source, got {', '.join(config.data)}: name {describe_kinds()}")
    if config.synthetic:
        raise DataError(f"--data must name the images: {describe_kinds()}")
    return config.data[0]


def _found(source: str, valid_data: str | None, test_data: str | None) -> dict[str, LabelledImages]:
    """Read the splits of the source, and those from sources of their own."""
    found = find_kind(source).read(Path(source))
    for split, word in ((VALID, valid_data), (TEST, test_data)):
        if word is None:
            continue
        other = find_kind(word).read(Path(word))
        if split not in other and len(other) > 1:
            raise DataError(
                f"{word} holds {' and '.join(other)} images, but no {split} ones: name the right part"
            )
        found[split] = other[split] if split in other else next(iter(other.values()))
    return found


def _digest(found: Mapping[str, LabelledImages]) -> str:
    return digest_items(
        item
        for split, (images, labels, class_names) in sorted(found.items())
        for image, label in zip(images, labels.tolist(), strict=True)
        for item in (split.encode(), os.fsencode(class_names[label]), image.key())
    )


def _divided(
    found: Mapping[str, LabelledImages], config: DataConfig, source: str
) -> dict[str, LabelledImages]:
    """Return all three splits; those that are missing are held out of the training images."""
    if TRAIN not in found:
        raise DataError(f"{source} has no training images, only those of {', '.join(found)}")
    train = found[TRAIN]
    # The classes of training are those of the model.
    names = train.class_names
    splits = {split: images.named_as(names) for split, images in found.items()}
    # Keys stay when images are added, and so does the split of each image.
    part_N = stratified_split(
        [names[label] for label in train.labels.tolist()],
        (image.key() for image in train.images),
        valid_fraction=0.0 if VALID in splits else config.valid_fraction,
        test_fraction=0.0 if TEST in splits else config.test_fraction,
        seed=config.data_seed,
    )
    for split, part in ((VALID, parts.VALID), (TEST, parts.TEST)):
        if split not in splits:
            splits[split] = train.take(np.flatnonzero(part_N == part))
    splits[TRAIN] = train.take(np.flatnonzero(part_N == parts.TRAIN))
    return splits


def _own_size(images: LabelledImages, source: str) -> int:
    """Return the side of images that are squares of one size."""
    sizes = {image.size for image in images.images}
    height, width = next(iter(sizes))
    # Larger images are seldom meant to be read at their own size.
    if len(sizes) > 1 or height != width or height > 1024:
        shape = "several sizes" if len(sizes) > 1 else f"{width} x {height} pixels"
        raise DataError(
            f"the images of {source} have {shape}: set --image_classification.image_size, the side of the "
            "square that they are stretched to"
        )
    return height


class ImageBatches:
    """Batches of labelled images, read when needed; without a seed in their order and not augmented."""

    def __init__(
        self,
        images: LabelledImages,
        processor: ImageProcessor,
        batch_size: int,
        seed: int | None = None,
        augmentations: Sequence[Augmentation] = (),
    ) -> None:
        self._images = images
        self._processor = processor
        self._batch_size = batch_size
        self._seed = seed
        self._augmentations = augmentations
        self._order = EpochOrder(len(images.labels), 1, seed)
        self.num_batches = -(-len(images.labels) // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return normalised images (B, C, S, S) with int64 labels (B,) or, if mixed, probabilities (B, K)."""
        rows, _ = self._order.slice(epoch, index * self._batch_size, self._batch_size)
        images, labels, _ = self._images.take(rows)
        examples = Examples(self._processor.read(images), labels)
        # Seeded by the place of the batch: a resumed run gets the same pixels.
        if self._seed is not None:
            examples = augmented(examples, self._augmentations, (self._seed, epoch, index))
        return Batch(
            inputs=self._processor.normalised(examples.images),
            targets=torch.from_numpy(examples.targets),
            loss_mask=torch.ones(len(rows), dtype=torch.bool),
        )
