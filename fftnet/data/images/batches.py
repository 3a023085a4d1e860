"""Batches of images: a batch is a pure function of seed, epoch and index."""

import torch

from fftnet.data.images.augmentation import AugmentationConfig, Examples, augmented
from fftnet.data.images.base import LabelledImages
from fftnet.data.images.processor import ImageProcessor
from fftnet.data.permutation import EpochOrder
from fftnet.protocols import Batch


class ImageBatches:
    """Images with their labels, read when their batch is asked for.

    Args:
        images: N of them.
        processor: the form that the model reads.
        batch_size: B.
        seed: of the order and of what is drawn; None takes them in their order, unchanged.
        augmentation: changes of the images; None makes none.
    """

    def __init__(
        self,
        images: LabelledImages,
        processor: ImageProcessor,
        batch_size: int,
        seed: int | None = None,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        self._images = images
        self._processor = processor
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = augmentation or AugmentationConfig()
        self._order = EpochOrder(len(images.labels), 1, seed)
        self.num_batches = -(-len(images.labels) // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Normalised images (B, C, S, S) and their labels, fewer in the last one of an epoch.

        Targets are int64 labels (B,), or of mixed images float32 probabilities (B, K).

        Raises:
            DataError: naming an image that can't be read.
        """
        rows, _ = self._order.slice(epoch, index * self._batch_size, self._batch_size)
        pixels = self._processor.read(self._images.pixels, rows)
        examples = Examples(pixels, self._images.labels[rows])
        if self._seed is not None:
            examples = augmented(examples, self._augmentation, (self._seed, epoch, index))
        return Batch(
            inputs=self._processor.normalised(examples.images),
            targets=torch.from_numpy(examples.targets),
            loss_mask=torch.ones(len(rows), dtype=torch.bool),
        )
