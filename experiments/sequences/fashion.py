"""Fashion-MNIST (arXiv 1708.07747) pixel by pixel: grey images of 28 x 28, ten kinds of clothes.

Images and test split are the published ones. Long Range Arena has CIFAR-10 as grey images of 32 x 32 instead,
which is harder: do not compare numbers. Validation is the last 5,000 of the 60,000 training images after a
fixed shuffle; there is no published one. The files come from a Debian package, which is unpacked and never
installed.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from experiments.fetching import fetch_debian
from experiments.results import ExperimentError
from experiments.sequences.base import SequenceData, Sizes, cut_all, same_length

PACKAGE = "dataset-fashion-mnist"
PLACE = "usr/share/datasets/fashion-mnist"
IMAGES = "{}-images-idx3-ubyte.gz"
LABELS = "{}-labels-idx1-ubyte.gz"
FILES = [name.format(part) for part in ("train", "t10k") for name in (IMAGES, LABELS)]
HELD_OUT = 5_000
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def _read(path: Path) -> np.ndarray:
    """Read a gzipped IDX file: 0, 0, type 8 (uint8), number of dimensions, their sizes, the values."""
    try:
        data = gzip.decompress(path.read_bytes())
        if data[:3] != b"\0\0\x08":
            raise ValueError("it does not begin like an IDX file of bytes")
        start = 4 + 4 * data[3]
        shape = struct.unpack(f">{data[3]}I", data[4:start])
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise ExperimentError(f"{path} can't be read ({error}): delete it to fetch it again") from error


def fashion_mnist(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """Return Fashion-MNIST as rows of 784 pixels: 55,000 training, 5,000 validation and 10,000 test rows.

    Args:
        cache: folder of ``fashion-mnist`` with the four IDX files, which are fetched if they are missing.
        sizes: cut each split to its first rows, which are of all classes.

    Raises:
        ExperimentError: if the files can't be fetched or read, or sizes exceed the splits.
    """
    folder = cache / "fashion-mnist"
    fetch_debian(PACKAGE, [f"{PLACE}/{name}" for name in FILES], folder)
    images, labels, test_images, test_labels = (_read(folder / name) for name in FILES)
    height, width = images.shape[1:]
    # The order of the published file may depend on the class.
    order = np.random.default_rng(0).permutation(len(images))
    kept, held = order[:-HELD_OUT], order[-HELD_OUT:]
    splits = [
        same_length(pixels.reshape(len(pixels), -1), classes)
        for pixels, classes in [
            (images[kept], labels[kept]),
            (images[held], labels[held]),
            (test_images, test_labels),
        ]
    ]
    return SequenceData(*cut_all(splits, sizes), 256, CLASSES, (height, width))
