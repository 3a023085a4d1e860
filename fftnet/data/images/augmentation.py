"""Random changes of training images that keep their class, seeded so that a batch is always the same."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fftnet.data.errors import import_extra


class Examples(NamedTuple):
    """A batch of images before normalization."""

    images: np.ndarray
    """(B, S, S, C) in [0, 255]: uint8, or float32 after mixing."""
    targets: np.ndarray
    """int64 labels (B,), or float32 probabilities (B, K) after mixing."""


Augmentation = Callable[[Examples, np.random.Generator], Examples]


def flip(examples: Examples, rng: np.random.Generator) -> Examples:
    """Mirror each image left to right with probability 1/2."""
    return examples._replace(images=flipped(examples.images, rng.random(len(examples.images)) < 0.5))


def flipped(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return images (B, H, W, C), those of ``chosen`` (boolean (B,)) mirrored left to right."""
    # where copies, so that images that are views of a file are not changed.
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def crop(examples: Examples, rng: np.random.Generator) -> Examples:
    """Shift each image by some pixels; the uncovered border is black."""
    count, size = examples.images.shape[:2]
    # Up to an eighth of the side, but always a pixel.
    margin = max(size // 8, 1)
    top_B, left_B = rng.integers(0, 2 * margin + 1, size=(2, count))
    return examples._replace(images=cropped(examples.images, margin, top_B, left_B))


def cropped(images: np.ndarray, margin: int, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Pad images (B, H, W, C) with black, and cut their size out of each, from ``top`` and ``left`` on."""
    height, width = images.shape[1:3]
    # One padding for the batch; each window is then a slice of it.
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = zip(padded, top.tolist(), left.tolist(), strict=True)
    return np.stack([image[y : y + height, x : x + width] for image, y, x in rows])


def rand_augment(examples: Examples, rng: np.random.Generator) -> Examples:
    """Apply torchvision's RandAugment: two random changes of colours, contrast, angle and others."""
    change = rand_augment_of_torchvision()
    images = torch.from_numpy(np.ascontiguousarray(examples.images.transpose(0, 3, 1, 2)))
    # torchvision draws from the global generator, whose state must not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        changed = torch.stack([change(image) for image in images])
    return examples._replace(images=changed.numpy().transpose(0, 2, 3, 1))


def rand_augment_of_torchvision() -> Any:
    """Return the transform of torchvision; ``MissingPackageError`` if it is not installed."""
    transforms = import_extra("torchvision.transforms.v2", "the augmentation rand_augment", "augmentation")
    return transforms.RandAugment()


def mixup(examples: Examples, rng: np.random.Generator, alpha: float, num_classes: int) -> Examples:
    """Blend each image with another one of the batch, and their targets alike (arXiv 1710.09412)."""
    # One weight for the whole batch, as in the reference implementation of mixup.
    weight = float(rng.beta(alpha, alpha))
    partner = rng.permutation(len(examples.images))
    images = examples.images.astype(np.float32)
    targets = np.eye(num_classes, dtype=np.float32)[examples.targets]
    return Examples(
        weight * images + (1 - weight) * images[partner], weight * targets + (1 - weight) * targets[partner]
    )


AUGMENTATIONS: dict[str, Callable[..., Examples]] = {
    "rand_augment": rand_augment,
    "crop": crop,
    "flip": flip,
    "mixup": mixup,
}
"""Name to function, in the order of application; mixup is last, since the others need uint8 pixels."""


def augmented(examples: Examples, changes: Sequence[Augmentation], seed: Sequence[int]) -> Examples:
    """Return a batch after some augmentations; equal seeds give equal results."""
    rng = np.random.default_rng(seed)
    for change in changes:
        examples = change(examples, rng)
    return examples
