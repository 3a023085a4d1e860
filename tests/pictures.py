"""Small images for tests: those of a class are bright on the left or below."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fftnet.data.images.kinds import LabelledImages, find_kind

CLASSES = ("left", "below")


def pictures(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (N, size, size, channels) and alternating int64 labels (N,)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, size, size, channels), dtype=np.uint8)
    labels = np.arange(count) % 2
    images[labels == 0, :, : size // 2] += 120
    images[labels == 1, size // 2 :] += 120
    return images, labels


def write_folder(
    folder: Path,
    count: int = 40,
    size: int = 8,
    channels: int = 3,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Write a folder with a folder of PNG files for each class."""
    images, labels = pictures(count, size, channels, seed)
    for number, image in enumerate(images):
        path = folder / classes[int(labels[number])] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if channels == 1 else image).save(path)
    return folder


def read(path: Path) -> dict[str, LabelledImages]:
    return find_kind(str(path)).read(path)
