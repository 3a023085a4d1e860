"""Small images that several files of tests use: those of a class are bright on the left, or below."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fftnet.data.images import LabelledImages, find_kind

CLASSES = ("left", "below")


def pictures(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, size, size, channels) and int64 labels (N,), which take turns."""
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
    """A folder with a folder of PNG files for each class."""
    images, labels = pictures(count, size, channels, seed)
    for number, image in enumerate(images):
        path = folder / classes[int(labels[number])] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if channels == 1 else image).save(path)
    return folder


def read(path: Path) -> dict[str, LabelledImages]:
    """The splits in a file or folder."""
    return find_kind(str(path)).read(path)


def write_idx(path: Path, array: np.ndarray) -> None:
    data = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, ending: str = "", family: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A data set as MNIST lies on a disk; the labels are 3 and 7."""
    written = {}
    for split, count in (("train", 21), ("t10k", 5)):
        images, labels = pictures(count, 8, 1, seed=count)
        labels = np.where(labels == 0, 3, 7).astype(np.uint8)
        write_idx(folder / f"{family}{split}-images-idx3-ubyte{ending}", images[..., 0])
        write_idx(folder / f"{family}{split}-labels-idx1-ubyte{ending}", labels)
        written[split] = images, labels
    return written
