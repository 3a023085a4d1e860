"""Changes of training images that leave their class, seeded so that a batch is always the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from fftnet.data.errors import import_extra
from fftnet.fields import check_fields, documented

PADDED_PART = 8
"""A crop moves an image by up to its side divided by this, and by one pixel at least."""


class Examples(NamedTuple):
    """A batch of images before they are normalised."""

    images: np.ndarray
    """(B, S, S, C) in [0, 255]: uint8, floats once they are mixed."""
    targets: np.ndarray
    """int64 labels (B,); once they are mixed, float32 probabilities (B, K)."""


@documented
@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Which changes are made.

    Raises:
        ValueError: if one is unknown, or ``mixup_alpha`` is not above 0.
    """

    names: tuple[str, ...] = ()
    """Names in ``AUGMENTATIONS``, in whose order they are applied."""
    mixup_alpha: float = 0.2
    """Of the beta distribution that weights of mixed images are drawn from."""
    num_classes: int = 1
    """Classes K, for the targets of mixed images."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.names:
            if name not in AUGMENTATIONS:
                raise ValueError(f"unknown augmentation {name!r}; choose from {', '.join(AUGMENTATIONS)}")
        if not self.mixup_alpha > 0:
            raise ValueError(f"mixup_alpha must be above 0, got {self.mixup_alpha}")


Augmentation = Callable[[Examples, np.random.Generator, AugmentationConfig], Examples]


def flip(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Mirror every other image, left to right."""
    mirrored = rng.random(len(examples.images)) < 0.5
    return examples._replace(images=flipped(examples.images, mirrored))


def flipped(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Images (B, H, W, C), of which the chosen ones, boolean (B,), are mirrored left to right."""
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def crop(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Move every image by some pixels; what comes into sight is black."""
    images = examples.images
    count, size = images.shape[:2]
    margin = max(size // PADDED_PART, 1)
    top_B, left_B = rng.integers(0, 2 * margin + 1, size=(2, count))
    return examples._replace(images=cropped(images, margin, top_B, left_B))


def cropped(images: np.ndarray, margin: int, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Images (B, H, W, C) cut out of themselves with a black margin of so many pixels around them.

    Args:
        images: of any dtype.
        margin: pixels.
        top: integers (B,) from 0 to twice the margin, which is where each cut begins.
        left: the same, from the left.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    moved = np.empty_like(images)
    for row, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        moved[row] = padded[row, y : y + height, x : x + width]
    return moved


def rand_augment(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Two random changes of each image, of colours, contrast, angle and others: torchvision's RandAugment."""
    change = _rand_augment()
    images = torch.from_numpy(np.ascontiguousarray(examples.images.transpose(0, 3, 1, 2)))
    # The library draws from the global generator, which goes on as if nobody had.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        changed = torch.stack([change(image) for image in images])
    return examples._replace(images=changed.numpy().transpose(0, 2, 3, 1))


def _rand_augment() -> Any:
    transforms = import_extra("torchvision.transforms.v2", "the augmentation rand_augment", "augmentation")
    return transforms.RandAugment()


def mixup(examples: Examples, rng: np.random.Generator, config: AugmentationConfig) -> Examples:
    """Blend every image with another of the batch, and their targets alike (arXiv 1710.09412)."""
    weight = float(rng.beta(config.mixup_alpha, config.mixup_alpha))
    partner = rng.permutation(len(examples.images))
    images = examples.images.astype(np.float32)
    targets = np.eye(config.num_classes, dtype=np.float32)[examples.targets]
    return Examples(
        weight * images + (1 - weight) * images[partner],
        weight * targets + (1 - weight) * targets[partner],
    )


AUGMENTATIONS: dict[str, Augmentation] = {
    "rand_augment": rand_augment,
    "crop": crop,
    "flip": flip,
    "mixup": mixup,
}
"""Name to change, in the order in which they are applied."""


def augmented(examples: Examples, config: AugmentationConfig, seed: Sequence[int]) -> Examples:
    """Examples with all changes that are asked for.

    Args:
        examples: a batch.
        config: which changes.
        seed: of the batch, such as (seed, epoch, index): the same gives the same.

    Raises:
        MissingPackageError: if a change needs a package that is not installed.
    """
    rng = np.random.default_rng(seed)
    for name, change in AUGMENTATIONS.items():
        if name in config.names:
            examples = change(examples, rng, config)
    return examples


def check_installed(config: AugmentationConfig) -> None:
    """Refuse, before any work is done, what needs a package that is not installed.

    Raises:
        MissingPackageError: with the way out.
    """
    if "rand_augment" in config.names:
        _rand_augment()
