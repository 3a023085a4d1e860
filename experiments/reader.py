"""How rows of a classification experiment are read: images or ids, moved, masked, counted."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cases import CaseSettings
from experiments.sequences.base import Rows, SequenceData
from experiments.training import BF16
from fftnet.data.images.augmentation import cropped, flipped
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.protocols import Batch
from fftnet.tasks.masked_token import MASKED_FRACTION

READ_AT_ONCE = 32
"""Rows of a batch that is only read."""
SHIFT = 1
"""Pixels by which a training image may be moved to each side."""


class Reader:
    """Hands rows to a model in the form that it reads, be it ids or images.

    Args:
        data: the data set; its training rows give mean and deviation of pixels.
        settings: patches and label smoothing.
    """

    def __init__(self, data: SequenceData, settings: CaseSettings) -> None:
        self.settings = settings
        self.image_shape = data.image_shape
        sample = data.train.ids[: 2**22].astype("float32")
        self.mean = float(sample.mean())
        self.deviation = max(float(sample.std()), 1.0)

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Logits (B, K), float32."""
        device = next(model.parameters()).device
        if not self.settings.patch_size:
            batch = batch.to(device)
            return model(batch.inputs, batch.attention_mask).float()
        assert self.image_shape is not None
        images = (batch.inputs.float() - self.mean) / self.deviation
        return model(images.view(len(images), 1, *self.image_shape).to(device)).float()

    def moved(self, batch: Batch, seed: int, step: int) -> Batch:
        """The images of a batch moved by up to ``SHIFT`` pixels each way, half of them mirrored."""
        assert self.image_shape is not None
        generator = np.random.default_rng([seed, step])
        images_BHW1 = batch.inputs.view(-1, *self.image_shape, 1).numpy()
        top_B, left_B = generator.integers(0, 2 * SHIFT + 1, (len(images_BHW1), 2)).T
        moved_BHW1 = cropped(images_BHW1, SHIFT, top_B, left_B)
        moved_BHW1 = flipped(moved_BHW1, generator.random(len(moved_BHW1)) < 0.5)
        return batch._replace(inputs=torch.from_numpy(moved_BHW1).flatten(1))

    def loss(self, model: Any, batch: Batch, precision: str) -> Tensor:
        """Mean cross-entropy of the rows that count; with that of reading, where rows are read."""
        device = next(model.parameters()).device
        reading = torch.zeros((), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16):
            if self.settings.reading_share:
                logits, reading = self._read(model, batch.to(device))
            else:
                logits = self.logits(model, batch)
        smoothing = self.settings.label_smoothing
        targets = batch.targets.to(device)
        loss_B = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
        counted_B = batch.loss_mask.to(device)
        return (loss_B * counted_B).sum() / counted_B.sum().clamp(min=1) + reading

    def _read(self, model: FFTNetForSequenceClassification, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the classes, and the mean loss of the next tokens, or of masked ones, in nats."""
        config = model.config
        inputs_BT = batch.inputs
        present_BT = torch.ones_like(inputs_BT, dtype=torch.bool)
        if batch.attention_mask is not None:
            present_BT = batch.attention_mask
        masked_BT = torch.zeros_like(present_BT)
        if not config.causal:
            masked_BT = present_BT & (torch.rand(inputs_BT.shape, device=inputs_BT.device) < MASKED_FRACTION)
        hidden_BTD = model.backbone(
            model.embedding(inputs_BT.masked_fill(masked_BT, config.vocab_size - 1)), batch.attention_mask
        )
        logits = model.classify(hidden_BTD, batch.attention_mask)
        if config.causal:
            asked_BT = present_BT[:, 1:]
            read_ND, targets_N = hidden_BTD[:, :-1][asked_BT], inputs_BT[:, 1:][asked_BT]
        else:
            read_ND, targets_N = hidden_BTD[masked_BT], inputs_BT[masked_BT]
        return logits, F.cross_entropy(model.embedding(read_ND).float(), targets_N)

    @torch.no_grad()
    def accuracy(self, model: nn.Module, rows: Rows, most: int | None = None) -> float:
        """Share of (the first ``most``) rows whose class has the largest logit."""
        # By length, so that a batch needs little padding.
        rows = rows.take(np.argsort(np.diff(rows.ends, prepend=0)[:most], kind="stable"))
        batches = rows.batches(READ_AT_ONCE, None)
        right = 0
        for index in range(batches.num_batches):
            batch = batches.batch(0, index)
            guess = self.logits(model, batch).argmax(dim=-1).cpu()
            right += int((guess == batch.targets).sum())
        return right / len(rows)
