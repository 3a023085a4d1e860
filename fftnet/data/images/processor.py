"""The form of a model's images: size, channels, and normalization of pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fftnet.data.images.pixels import READ_AT_ONCE, WHITE, LazyImage, read_images
from fftnet.fields import MAX_SIDE, check_fields, check_range
from fftnet.serialization import CheckpointError, read_json, write_json

PROCESSOR_FILE = "preprocessor_config.json"
"""File name of an image processor in Transformers, whose ``AutoImageProcessor`` reads this one."""
MIN_STD = 1e-6
"""Lower limit of a standard deviation; float32 pixels would overflow far below it."""
MAX_VALUES = 2**24
"""Maximum channel values that are read at the same time to measure mean and standard deviation."""


@dataclass(frozen=True)
class ImageProcessor:
    """The form of a model's images; a field that is out of range is a ValueError."""

    size: int
    """Side S in pixels."""
    mean: tuple[float, ...]
    """Mean of each channel C, for pixels in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIDE, "size")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(f"no mean and standard deviation of 1 or 3 channels: {self.mean}, {self.std}")
        if min(self.std) < MIN_STD:
            raise ValueError(f"a standard deviation must be at least {MIN_STD}, got {self.std}")

    @property
    def channels(self) -> int:
        """Number of channels C: 1 for a model of grey images, else 3."""
        return len(self.mean)

    def read(self, images: Sequence[LazyImage]) -> np.ndarray:
        """Return images in the form of the model, uint8 (B, S, S, C); DataError if one can't be read."""
        return read_images(images, self.size, self.channels)

    def normalised(self, images: np.ndarray) -> Tensor:
        """Convert images (B, S, S, C) in [0, 255], uint8 or floats, to float32 (B, C, S, S)."""
        scaled = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / WHITE
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (scaled - mean) / std

    def save(self, folder: Path) -> None:
        """Write the file of an image processor in Transformers; CheckpointError if that fails."""
        values = {
            "image_processor_type": "ViTImageProcessor",
            "do_convert_rgb": self.channels == 3,
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            # Pillow's number of bilinear resizing.
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / WHITE,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_json(folder / PROCESSOR_FILE, values)

    @classmethod
    def load(cls, folder: Path) -> "ImageProcessor":
        """Read the file that ``save`` or Transformers wrote; CheckpointError if that fails."""
        # The file may be of Transformers or written by hand: only what is used is checked.
        path = folder / PROCESSOR_FILE
        values = read_json(path)
        try:
            size = values["size"]
            if size["height"] != size["width"] or not (values["do_rescale"] and values["do_normalize"]):
                raise ValueError("images are square, scaled and normalised here")
            return cls(size["height"], tuple(values["image_mean"]), tuple(values["image_std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not that of an image model of ours: {error}") from error


def measured(images: Sequence[LazyImage], size: int, channels: int) -> ImageProcessor:
    """Return a processor with the mean and standard deviation of some images."""
    total_C = np.zeros(channels)
    squares_C = np.zeros(channels)
    # Fewer at once if they are large, so that memory stays bounded.
    count = max(min(READ_AT_ONCE, MAX_VALUES // (size * size * channels)), 1)
    for first in range(0, len(images), count):
        pixels = read_images(images[first : first + count], size, channels) / float(WHITE)
        total_C += pixels.sum(axis=(0, 1, 2))
        squares_C += np.square(pixels).sum(axis=(0, 1, 2))
    mean_C = total_C / (len(images) * size**2)
    variance_C = squares_C / (len(images) * size**2) - mean_C**2
    # A constant channel has no scale to divide by.
    std = tuple(math.sqrt(value) if value > 1e-9 else 1.0 for value in variance_C.tolist())
    return ImageProcessor(size, tuple(mean_C.tolist()), std)
