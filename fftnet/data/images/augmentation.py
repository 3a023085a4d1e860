"""Random changes of training images that keep their class, seeded so that a batch is always the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from fftnet.data.errors import import_extra
from fftnet.fields import check_fields, documented

MARGIN_FRACTION = 8
"""Image side divided by the largest shift of a crop; a crop may always shift by one pixel."""


class Examples(NamedTuple):
    """A batch of images before normalization."""

    images: np.ndarray
    """(B, S, S, C) in [0, 255]: uint8, or float32 after mixing."""
    targets: np.ndarray
    """int64 labels (B,), or float32 probabilities (B, K) after mixing."""


@documented
@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """The augmentations of a run.

    Raises:
        ValueError: if one is unknown, or ``mixup_alpha`` is not above 0.
    """

    names: tuple[str, ...] = ()
    """Names in ``AUGMENTATIONS``, in whose order they are applied."""
    mixup_alpha: float = 0.2
    """Parameter of the beta distribution of mixup weights."""
    num_classes: int = 1
    """Number of classes K, for the targets of mixed images."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.names:
            if name not in AUGMENTATIONS:
                raise ValueError(f"unknown augmentation {name!r}; choose from {', '.join(AUGMENTATIONS)}")
        if not self.mixup_alpha > 0:
            raise ValueError(f"mixup_alpha must be above 0, got {self.mixup_alpha}")


Augmentation = Callable[[Examples, np.random.Generator, AugmentationConfig], Examples]


def flip(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Mirror each image left to right with probability 1/2."""
    return examples._replace(images=flipped(examples.images, rng.random(len(examples.images)) < 0.5))


def flipped(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return images (B, H, W, C), those of ``chosen`` (boolean (B,)) mirrored left to right."""
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def crop(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Shift each image by some pixels; the uncovered border is black."""
    count, size = examples.images.shape[:2]
    margin = max(size // MARGIN_FRACTION, 1)
    top_B, left_B = rng.integers(0, 2 * margin + 1, size=(2, count))
    return examples._replace(images=cropped(examples.images, margin, top_B, left_B))


def cropped(images: np.ndarray, margin: int, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Pad images (B, H, W, C) with a black margin and cut a window of their size out of each.

    Args:
        images: of any dtype.
        margin: width in pixels.
        top: integers (B,) from 0 to twice the margin, the first row of each window.
        left: integers (B,), the first columns.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    moved = np.empty_like(images)
    for row, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        moved[row] = padded[row, y : y + height, x : x + width]
    return moved


def rand_augment(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Apply torchvision's RandAugment: two random changes of colours, contrast, angle and others."""
    change = _rand_augment()
    images = torch.from_numpy(np.ascontiguousarray(examples.images.transpose(0, 3, 1, 2)))
    # torchvision draws from the global generator, whose state must not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        changed = torch.stack([change(image) for image in images])
    return examples._replace(images=changed.numpy().transpose(0, 2, 3, 1))


def _rand_augment() -> Any:
    transforms = import_extra("torchvision.transforms.v2", "the augmentation rand_augment", "augmentation")
    return transforms.RandAugment()


def mixup(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Blend each image with another one of the batch, and their targets alike (arXiv 1710.09412)."""
    weight = float(rng.beta(config.mixup_alpha, config.mixup_alpha))
    partner = rng.permutation(len(examples.images))
    images = examples.images.astype(np.float32)
    targets = np.eye(config.num_classes, dtype=np.float32)[examples.targets]
    return Examples(
        weight * images + (1 - weight) * images[partner],
        weight * targets + (1 - weight) * targets[partner],
    )


# Mixup comes last: the others need pixels in uint8 and leave targets alone.
AUGMENTATIONS: dict[str, Augmentation] = {
    "rand_augment": rand_augment,
    "crop": crop,
    "flip": flip,
    "mixup": mixup,
}
"""Name to function, in the order in which they are applied."""


def augmented(examples: Examples, config: AugmentationConfig, seed: Sequence[int]) -> Examples:
    """Return a batch with the augmentations of a configuration.

    Args:
        examples: a batch.
        config: the augmentations.
        seed: integers of the batch, such as (seed, epoch, index); equal ones give equal results.

    Raises:
        MissingPackageError: if an augmentation needs a package that is not installed.
    """
    rng = np.random.default_rng(seed)
    for name, change in AUGMENTATIONS.items():
        if name in config.names:
            examples = change(examples, rng, config)
    return examples


def check_installed(config: AugmentationConfig) -> None:
    """Raise ``MissingPackageError`` before any work if an augmentation needs a missing package."""
    if "rand_augment" in config.names:
        _rand_augment()
