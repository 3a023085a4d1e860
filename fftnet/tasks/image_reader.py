"""What a trained image classifier reads: files, rows of arrays, images from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from fftnet.data.images import Pixels, find_kind
from fftnet.data.images.batches import ImageBatches
from fftnet.data.images.loading import load_test_images
from fftnet.data.images.pixels import ImageArray
from fftnet.data.images.processor import PROCESSOR_FILE, ImageProcessor
from fftnet.model.vit import FFTNetViT
from fftnet.serialization import CheckpointError
from fftnet.tasks.base import Request
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

    def read(self, word: str, data: DataConfig) -> tuple[list[str], list[Place]]:
        """The images of a file or folder, of which the pixels are not read yet.

        Args:
            word: an image, a folder of images (with folders in it or not), an .npz or IDX file.
            data: not used.

        Raises:
            DataError: if there are none.
        """
        pixels = find_kind(word).read_pixels(Path(word))
        places = [Place(pixels, number) for number in range(len(pixels))]
        return [pixels.name(place.number) for place in places], places

    def encode(self, inputs: Sequence[Place | np.ndarray], names: Sequence[str]) -> list[Place]:
        """What ``read`` gave as it is, and arrays checked.

        Args:
            inputs: of ``read``, or images: uint8 (H, W) or (H, W, C) with C of 1, 3 or 4.
            names: what each is called in a message.

        Raises:
            DataError: naming the input that is no image.
        """
        return [
            given if isinstance(given, Place) else Place(ImageArray(np.asarray(given)[None], name), 0)
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

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> ImageBatches:
        """Images with their classes: all of them, or those that test.

        Raises:
            DataError: if they can't be read, or one is of no class of the model.
        """
        settings: ImageClassificationConfig = request.settings
        images = load_test_images(
            request.data,
            class_names,
            valid_data=settings.valid_data,
            test_data=settings.test_data,
            whole=whole,
        )
        return ImageBatches(images, self._processor, request.data.batch_size)
