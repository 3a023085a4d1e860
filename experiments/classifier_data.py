"""Data of the classification experiments: settings, order of the batches, losses and accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.sequences.base import Rows, SequenceData
from experiments.training import BF16, FP32, Budget
from fftnet.data.images.augmentation import cropped, flipped
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.heads import MEAN
from fftnet.protocols import Batch
from fftnet.tasks.masked_token import MASKED_FRACTION

READ_AT_ONCE = 32
"""Rows of a batch in evaluation."""
SHIFT = 1
"""Largest shift of a training image to each side, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Data that are trained on before those of the case."""

    data: str
    """Name in the table of sequences, whose training rows are taken."""
    steps: int
    """Training steps."""
    rows: int
    """Rows of a batch."""


@dataclass(frozen=True, kw_only=True)
class CaseSettings:
    """A data set, the models on it and their training."""

    data: str
    """Name in the table of sequences."""
    sizes: tuple[int, int, int] | None = None
    """Rows of training, validation and test (None: as published)."""
    d_model: int = 64
    """Width D."""
    num_layers: int = 4
    """Blocks of mixer and feed-forward."""
    num_heads: int = 4
    """Heads H."""
    parameters: int = 250_000
    """Parameters of the whole model, reached by the width of the feed-forward."""
    patch_size: int = 0
    """Side of the patches of an image, in pixels; 0: a row is its ids."""
    num_anchors: int | None = None
    """Frequencies of the filter of the paper's layer (None: the package's default)."""
    pairs: bool = False
    """Rows are two texts around a separator: each is encoded alone, then both are compared."""
    pooling: str = MEAN
    """Pooling of the hidden states, for all models: their mean, or the last one."""
    dropout: float = 0.1
    """Probability of dropping a value in training."""
    rows: int = 32
    """Rows of a batch."""
    stages: tuple[Stage, ...] = ()
    """Easier data that are trained on first, as part of the budget, such as the same with shorter rows."""
    augment: bool = False
    """Shift and mirror training images at random."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes in training."""
    reading_share: float = 0.0
    """Share of the steps that train without labels: the next token in causal models, masked tokens in the
    others. Afterwards that loss is added to the loss of the classes (0: classes alone)."""
    curve_rows: int = 500
    """Validation rows of a point of the curve."""
    precision: str = FP32
    """Dtype of the matrix products of training."""
    budget: Budget
    """Length of training."""


class Part(NamedTuple):
    """A stage with its rows loaded. The last one has no end."""

    train: Rows
    steps: int
    rows: int


class Curriculum:
    """Batches by the number of the step, stage by stage.

    Args:
        parts: stages; the last one lasts to the end of training.
        seed: random seed for the order of the rows.
    """

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        *self._before, (_, self._own) = [(part.steps, part.train.batches(part.rows, seed)) for part in parts]

    def epochs(self, steps: int) -> float:
        """Return the epochs of the last stage in a run of that many steps."""
        return max(steps - sum(steps for steps, _ in self._before), 0) / self._own.num_batches

    def batch(self, step: int) -> Batch:
        """Return the batch of a step of the run."""
        batches = self._own
        # Each stage starts with its own first batch.
        for steps, earlier in self._before:
            if step < steps:
                batches = earlier
                break
            step -= steps
        return batches.batch(*divmod(step, batches.num_batches))


class Reader:
    """Passes rows to a model in the form that it reads, ids or images, and computes losses and accuracy.

    Args:
        data: data set; its training rows give mean and deviation of pixels.
        settings: patches, label smoothing and unlabelled training.
    """

    def __init__(self, data: SequenceData, settings: CaseSettings) -> None:
        self.settings = settings
        self.image_shape = data.image_shape
        # Mean and deviation of the first pixels are exact enough, and cheap for large sets.
        sample = data.train.ids[: 2**22].astype("float32")
        self.mean = float(sample.mean())
        self.deviation = max(float(sample.std()), 1.0)

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Return logits (B, K), float32."""
        device = next(model.parameters()).device
        if not self.settings.patch_size:
            batch = batch.to(device)
            return model(batch.inputs, batch.attention_mask).float()
        assert self.image_shape is not None
        # Zero mean and unit deviation over the training images.
        images = (batch.inputs.float() - self.mean) / self.deviation
        return model(images.view(len(images), 1, *self.image_shape).to(device)).float()

    def augmented(self, batch: Batch, seed: int, step: int) -> Batch:
        """Shift the images of a batch by up to ``SHIFT`` pixels each way, and mirror half of them."""
        assert self.image_shape is not None
        # By seed and step, so that a resumed run sees the same images.
        generator = np.random.default_rng([seed, step])
        images_BHW1 = batch.inputs.view(-1, *self.image_shape, 1).numpy()
        top_B, left_B = generator.integers(0, 2 * SHIFT + 1, (len(images_BHW1), 2)).T
        moved_BHW1 = cropped(images_BHW1, SHIFT, top_B, left_B)
        moved_BHW1 = flipped(moved_BHW1, generator.random(len(moved_BHW1)) < 0.5)
        return batch._replace(inputs=torch.from_numpy(moved_BHW1).flatten(1))

    def loss(self, model: Any, batch: Batch, precision: str) -> Tensor:
        """Return the mean cross-entropy of the counted rows, plus the loss without labels if trained."""
        device = next(model.parameters()).device
        reading = torch.zeros((), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16):
            if self.settings.reading_share:
                logits, reading = self._read(model, batch.to(device))
            else:
                logits = self.logits(model, batch)
        smoothing = self.settings.label_smoothing
        targets = batch.targets.to(device)
        # Rows that do not count have no share in the mean.
        loss_B = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
        counted_B = batch.loss_mask.to(device)
        return (loss_B * counted_B).sum() / counted_B.sum().clamp(min=1) + reading

    def _read(self, model: FFTNetForSequenceClassification, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits of the classes, and the mean loss of the next or of masked tokens, in nats."""
        config = model.config
        inputs_BT = batch.inputs
        present_BT = torch.ones_like(inputs_BT, dtype=torch.bool)
        if batch.attention_mask is not None:
            present_BT = batch.attention_mask
        masked_BT = torch.zeros_like(present_BT)
        if not config.causal:
            masked_BT = present_BT & (torch.rand(inputs_BT.shape, device=inputs_BT.device) < MASKED_FRACTION)
        # The last id of the vocabulary is the mask. One pass serves both losses.
        shown_BT = inputs_BT.masked_fill(masked_BT, config.vocab_size - 1)
        hidden_BTD = model.backbone(model.embedding(shown_BT), batch.attention_mask)
        logits = model.classify(hidden_BTD, batch.attention_mask)
        if config.causal:
            # A causal model predicts each next token, a bidirectional one the masked tokens.
            asked_BT = present_BT[:, 1:]
            read_ND, targets_N = hidden_BTD[:, :-1][asked_BT], inputs_BT[:, 1:][asked_BT]
        else:
            read_ND, targets_N = hidden_BTD[masked_BT], inputs_BT[masked_BT]
        return logits, F.cross_entropy(model.embedding(read_ND).float(), targets_N)

    @torch.no_grad()
    def accuracy(self, model: nn.Module, rows: Rows, most: int | None = None) -> float:
        """Return the share of rows (of the first ``most``) whose class has the largest logit."""
        # Sorted by length, so that a batch needs little padding.
        rows = rows.take(np.argsort(np.diff(rows.ends, prepend=0)[:most], kind="stable"))
        batches = rows.batches(READ_AT_ONCE, None)
        right = 0
        for index in range(batches.num_batches):
            batch = batches.batch(0, index)
            guess = self.logits(model, batch).argmax(dim=-1).cpu()
            right += int((guess == batch.targets).sum())
        return right / len(rows)
