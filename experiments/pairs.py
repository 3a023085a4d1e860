"""Pairs of texts, as Long Range Arena has them: one model encodes each alone; then they are compared."""

import numpy as np
import torch
from torch import Tensor, nn

from fftnet.data.labelled import pad_tokens
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.heads import pooled


class PairClassifier(nn.Module):
    """Two texts of any lengths, not both empty, with a separator between them, to a class.

    What is compared are the pooled hidden states of both, their product and their squared difference, after
    each number has been standardised over the batch: texts differ by a small part of what they share.

    Args:
        encoder: its embedding and backbone read both texts; its own linear layer is taken out. The last id
            of its vocabulary is the separator.
    """

    def __init__(self, encoder: FFTNetForSequenceClassification) -> None:
        super().__init__()
        config = encoder.config
        self.separator = config.vocab_size - 1
        self.pooling = config.pooling
        self.embedding = encoder.embedding
        self.backbone = encoder.backbone
        self.norm = nn.BatchNorm1d(config.d_model, affine=False)
        self.head = nn.Sequential(
            nn.Linear(4 * config.d_model, 2 * config.d_model),
            nn.GELU(),
            nn.Linear(2 * config.d_model, config.num_classes),
        )

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes) of int64 ids (B, T).

        Args:
            tokens: a text, the separator, the other text.
            attention_mask: boolean (B, T), False at padding.

        Raises:
            ValueError: if a row is not two texts around one separator.
        """
        texts_BT, present_BT = self._split(tokens, attention_mask)
        hidden_BTD = self.backbone(self.embedding(texts_BT), present_BT)
        first, second = self.norm(pooled(hidden_BTD, self.pooling, present_BT)).chunk(2)
        return self.head(torch.cat([first, second, first * second, (first - second) ** 2], dim=-1))

    def _split(self, tokens: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """All first texts, then all second ones, and where they are, None if nowhere is padding."""
        # As NumPy arrays, so that a GPU is waited for once and not in every row.
        rows_BT = tokens.cpu().numpy()
        present_BT = None if attention_mask is None else attention_mask.cpu().numpy()
        firsts = []
        seconds = []
        for number, row in enumerate(rows_BT):
            ids = row if present_BT is None else row[present_BT[number]]
            places = np.flatnonzero(ids == self.separator)
            if len(places) != 1:
                raise ValueError(f"row {number} is no pair: two texts with one {self.separator} between them")
            firsts.append(ids[: places[0]])
            seconds.append(ids[places[0] + 1 :])
        texts_BT, mask_BT = pad_tokens([*firsts, *seconds])
        return texts_BT.to(tokens.device), None if mask_BT is None else mask_BT.to(tokens.device)
