"""What a trained image classifier reads: files, rows of arrays, images from Python."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from fftnet.data.errors import DataError
from fftnet.data.images import Pixels, find_kind
from fftnet.data.images.batches import ImageBatches
from fftnet.data.images.decoding import image_array
from fftnet.data.images.loading import load_test_images
from fftnet.data.images.pixels import CHANNELS, ImageArray
from fftnet.data.images.processor import PROCESSOR_FILE, ImageProcessor
from fftnet.data.labelled import LabelledData
from fftnet.model.vit import FFTNetViT
from fftnet.serialization import CheckpointError
from fftnet.tasks.base import Inputs, Request
from fftnet.tasks.image_classification import ImageClassificationConfig
from fftnet.utils.dataset import DataConfig


class Place(NamedTuple):
    """An image that is read when its batch is computed."""

    pixels: Pixels
    number: int


class ImageReader:
    """Images, converted and resized to the form of those that the model was trained on.

    Args:
        folder: of the checkpoint.
        model: its model.

    Raises:
        CheckpointError: if the file with the form of its images is missing, or that of another model.
    """

    Config: ClassVar[type[Any]] = ImageClassificationConfig

    def __init__(self, folder: Path, model: FFTNetViT) -> None:
        self._processor = ImageProcessor.load(folder)
        expected = (model.config.image_size, model.config.num_channels)
        if (self._processor.size, self._processor.channels) != expected:
            raise CheckpointError(
                f"{folder / PROCESSOR_FILE} is not that of this model: its images have {expected[0]} "
                f"pixels a side and {expected[1]} channels; put back the file that was saved with it"
            )

    def read(self, word: str, data: DataConfig) -> Inputs:
        """Find the images of a file or folder, whose pixels are not read yet.

        Args:
            word: an image, a folder of images (with folders in it or not), an .npz or IDX file.
            data: not used.

        Raises:
            DataError: if there are none.
        """
        pixels = find_kind(word).read_pixels(Path(word))
        names = [pixels.name(number) for number in range(len(pixels))]
        places = [Place(pixels, number) for number in range(len(pixels))]
        return Inputs(names, places, [{"input": name} for name in names])

    def is_single(self, inputs: Any) -> bool:
        """Return True for an image, and for what ``encode`` refuses with a sentence.

        Args:
            inputs: an array (H, W) or (H, W, C) with C of 1, 3 or 4 is one image; others hold several.

        Raises:
            DataError: if an array may be one image with the channels first, or a few grey images.
        """
        if not hasattr(inputs, "shape"):
            return isinstance(inputs, (str, bytes, os.PathLike)) or _is_pillow(inputs)
        shape = tuple(inputs.shape)
        if len(shape) == 3 and shape[0] in (3, 4) and shape[2] not in CHANNELS:
            raise DataError(
                f"an array of shape {shape} may be one image with the channels first or {shape[0]} grey "
                "images: give one image as (H, W, C), or grey images as a list"
            )
        return _is_image(shape)

    def encode(self, inputs: Sequence[Any], names: Sequence[str]) -> list[Place]:
        """Return what ``read`` gave as it is, and check images from Python.

        Args:
            inputs: of ``read``, images of Pillow, or uint8 arrays or tensors (H, W) or (H, W, C) with C of 1,
                3 or 4.
            names: what each is called in a message.

        Raises:
            DataError: naming the input that is no image.
        """
        return [
            given if isinstance(given, Place) else Place(ImageArray(_array(given, name)[None], name), 0)
            for given, name in zip(inputs, names, strict=True)
        ]

    def batch(self, encoded: Sequence[Place]) -> tuple[Tensor]:
        """Normalised images (B, C, S, S).

        Raises:
            DataError: naming an image that can't be read.
        """
        first = encoded[0].pixels
        if all(place.pixels is first for place in encoded):
            images = self._processor.read(first, np.array([place.number for place in encoded]))
        else:
            each = [self._processor.read(place.pixels, np.array([place.number])) for place in encoded]
            images = np.concatenate(each)
        return (self._processor.normalised(images),)

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> LabelledData:
        """Return images with their classes: all of them, or those that test.

        Raises:
            DataError: if they can't be read, or one is of no class of the model.
        """
        settings: ImageClassificationConfig = request.settings
        images, digest = load_test_images(
            request.data,
            class_names,
            valid_data=settings.valid_data,
            test_data=settings.test_data,
            whole=whole,
        )
        return LabelledData(ImageBatches(images, self._processor, request.data.batch_size), digest)


def _is_pillow(given: Any) -> bool:
    """Return True for an image of Pillow, without the need to install it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(given, pillow.Image)


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS)


def _array(given: Any, name: str) -> np.ndarray:
    """Convert an image from Python to a uint8 array (H, W) or (H, W, C)."""
    if _is_pillow(given):
        return image_array(given, name)
    if not hasattr(given, "shape") or not hasattr(given, "dtype"):
        raise DataError(
            f"{name} must be a uint8 array or tensor or an image of Pillow, got {type(given).__name__}"
        )
    shape = tuple(given.shape)
    dtype = str(given.dtype).removeprefix("torch.")
    if dtype != "uint8" or not _is_image(shape) or 0 in shape:
        hint = ": put the channels last" if len(shape) == 3 and shape[0] in CHANNELS else ""
        if dtype != "uint8":
            hint = ": convert pixels to integers from 0 to 255"
        raise DataError(
            f"{name}: images must be uint8 of shape (H, W) or (H, W, C) with C of 1, 3 or 4, got {dtype} of "
            f"shape {shape}{hint}"
        )
    return given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
