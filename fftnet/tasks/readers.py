"""Readers of trained classifiers: inputs from files and from Python, and labelled data for evaluation."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from fftnet.data.errors import DataError
from fftnet.data.images.kinds import find_kind
from fftnet.data.images.loading import ImageBatches, load_test_images
from fftnet.data.images.pixels import CHANNELS, LazyImage, image_array, lazy_rows
from fftnet.data.images.processor import PROCESSOR_FILE, ImageProcessor
from fftnet.data.labelled import (
    LabelledBatches,
    LabelledTexts,
    class_indices,
    digest_rows,
    encode_texts,
    pad_tokens,
    read_labelled,
    read_text_rows,
)
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.pretrained import PretrainedModel
from fftnet.model.vit import FFTNetViT
from fftnet.protocols import Batches
from fftnet.serialization import CheckpointError
from fftnet.tasks.base import Request
from fftnet.tasks.classification import ClassificationConfig, check_data, divide
from fftnet.tasks.image_classification import ImageClassificationConfig
from fftnet.utils.dataset import DataConfig
from fftnet.utils.tokenizer import Tokenizer


class Inputs(NamedTuple):
    """Inputs of a file, at least one."""

    names: list[str]
    """Names for messages."""
    values: list[Any]
    """Inputs for ``Classifier.predict``."""
    columns: list[dict[str, Any]]
    """Columns that an answer repeats: those of the row, or the name of the file."""


class Reader(Protocol):
    """The part of a classifier that reads inputs, made from the folder and the model of a checkpoint.

    Files next to the model that are missing, or belong to another model, are a CheckpointError.
    """

    Config: ClassVar[type[Any]]
    """Settings of the task that trains this kind."""

    def __init__(self, folder: Path, model: Any) -> None: ...

    def read(self, word: str, data: DataConfig) -> Inputs:
        """Read the inputs of a file, whose columns ``data`` names; DataError if it can't be read."""
        ...

    def is_single(self, inputs: Any) -> bool:
        """Return True for one input, False for a possible list; DataError if it could be either."""
        ...

    def encode(self, inputs: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Convert inputs one by one, those of equal ``len`` share a batch; DataError names a wrong one."""
        ...

    def batch(self, encoded: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the arguments of the model for several results of ``encode``."""
        ...

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> tuple[Batches, str]:
        """Return batches of all labelled data, or of the test split, in their order, and a digest of all."""
        ...


class TextReader:
    """Reader of texts, which are cut to ``max_seq_length`` tokens as in training; see ``Reader``."""

    Config: ClassVar[type[Any]] = ClassificationConfig

    def __init__(self, folder: Path, model: FFTNetForSequenceClassification) -> None:
        self._tokenizer = Tokenizer.load(folder)
        self._length = model.config.max_seq_length
        if self._tokenizer.vocab_size != model.config.vocab_size:
            raise CheckpointError(
                f"{folder} holds a tokenizer of {self._tokenizer.vocab_size} tokens and a model of "
                f"{model.config.vocab_size}: put back the tokenizer files that were saved with the model"
            )

    def read(self, word: str, data: DataConfig) -> Inputs:
        """Read the lines of a ``.txt`` file, or the texts of a table."""
        rows = read_text_rows(word, data.text_field)
        texts = [row.values[data.text_field] for row in rows]
        return Inputs([row.name for row in rows], texts, [row.values for row in rows])

    def is_single(self, inputs: Any) -> bool:
        """Return True for a text, and for other values that ``encode`` refuses."""
        # Iterating over a table of pandas would give its column names.
        return isinstance(inputs, (str, bytes, os.PathLike)) or getattr(inputs, "ndim", 1) > 1

    def encode(self, inputs: Sequence[str], names: Sequence[str]) -> list[Any]:
        """Return the ids of each text."""
        for name, text in zip(names, inputs, strict=True):
            if not isinstance(text, str):
                raise DataError(f"{name} must be a text, got {type(text).__name__}")
            if not text.strip():
                raise DataError(f"{name} is an empty text: there is nothing to classify")
        texts = LabelledTexts(list(names), list(inputs), [])
        return encode_texts([texts], self._tokenizer, self._length)[0]

    def batch(self, encoded: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return ids (B, T), and a mask (B, T) if there is padding."""
        tokens, mask = pad_tokens(encoded)
        return (tokens,) if mask is None else (tokens, mask)

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> tuple[Batches, str]:
        """Return rows of tables with their labels."""
        data, settings = request.data, request.settings
        check_data(data)
        # The test split is found again by the rule of training, from the same data and seed.
        if whole:
            rows = read_labelled(data.data, data.text_field, settings.label_field)
            digest = digest_rows(rows)
        else:
            (_, _, rows), digest = divide(data, settings)
        classes = class_indices(rows, class_names)
        (ids,) = encode_texts([rows], self._tokenizer, self._length)
        return LabelledBatches(ids, classes, data.batch_size, None), digest


class ImageReader:
    """Reader of images, which are converted to the form of the training images; see ``Reader``."""

    Config: ClassVar[type[Any]] = ImageClassificationConfig

    def __init__(self, folder: Path, model: FFTNetViT) -> None:
        self._processor = ImageProcessor.load(folder)
        # Another size would change the number of patches without an error.
        expected = (model.config.image_size, model.config.num_channels)
        if (self._processor.size, self._processor.channels) != expected:
            raise CheckpointError(
                f"{folder / PROCESSOR_FILE} is not that of this model: its images have {expected[0]} "
                f"pixels a side and {expected[1]} channels; put back the file that was saved with it"
            )

    def read(self, word: str, data: DataConfig) -> Inputs:
        """Find the images of a file or folder, whose pixels are read later."""
        images = find_kind(word).read_unlabelled(Path(word))
        names = [image.name for image in images]
        return Inputs(names, images, [{"input": name} for name in names])

    def is_single(self, inputs: Any) -> bool:
        """Return True for an image, such as an array (H, W) or (H, W, C), and for values that are refused."""
        if not hasattr(inputs, "shape"):
            return isinstance(inputs, (str, bytes, os.PathLike)) or _is_pillow(inputs)
        shape = tuple(inputs.shape)
        # PyTorch puts channels first; guessing would classify single channels as grey images.
        if len(shape) == 3 and shape[0] in (3, 4) and shape[2] not in CHANNELS:
            raise DataError(
                f"an array of shape {shape} may be one image with the channels first or {shape[0]} grey "
                "images: give one image as (H, W, C), or grey images as a list"
            )
        return _is_image(shape)

    def encode(self, inputs: Sequence[Any], names: Sequence[str]) -> list[LazyImage]:
        """Check images from Python; those of ``read`` pass."""
        # Images of files are decoded batch by batch, those from Python are in memory already.
        return [
            given if isinstance(given, LazyImage) else lazy_rows(_array(given, name)[None], name)[0]
            for given, name in zip(inputs, names, strict=True)
        ]

    def batch(self, encoded: Sequence[LazyImage]) -> tuple[Tensor]:
        """Return normalised images (B, C, S, S); DataError if one can't be read."""
        return (self._processor.normalised(self._processor.read(encoded)),)

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> tuple[Batches, str]:
        """Return images with their classes."""
        settings: ImageClassificationConfig = request.settings
        images, digest = load_test_images(
            request.data,
            class_names,
            valid_data=settings.valid_data,
            test_data=settings.test_data,
            whole=whole,
        )
        return ImageBatches(images, self._processor, request.data.batch_size), digest


READERS: dict[type[PretrainedModel], type[Reader]] = {
    FFTNetForSequenceClassification: TextReader,
    FFTNetViT: ImageReader,
}
"""Kind of classifier to its reader."""


def _is_pillow(given: Any) -> bool:
    """Return True for an image of Pillow, which need not be installed."""
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
        # Half-precision tensors have no type in NumPy, so that the check comes before the conversion.
        hint = ": put the channels last" if len(shape) == 3 and shape[0] in CHANNELS else ""
        if dtype != "uint8":
            hint = ": convert pixels to integers from 0 to 255"
        raise DataError(
            f"{name}: images must be uint8 of shape (H, W) or (H, W, C) with C of 1, 3 or 4, got {dtype} of "
            f"shape {shape}{hint}"
        )
    return given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
