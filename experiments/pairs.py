"""Classifier of pairs of texts, as in Long Range Arena: each text is encoded, then both are compared."""

import numpy as np
import torch
from torch import Tensor, nn

from fftnet.data.labelled import pad_tokens
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.heads import pooled


class PairClassifier(nn.Module):
    """Map two texts of any lengths, not both empty, with a separator between them, to a class.

    The head reads the pooled hidden states of both, their product and their squared difference. Pooled states
    are standardized over the batch first, because texts share most of them and differ by a small part.

    Args:
        encoder: its embedding and backbone read both texts; its own linear layer is not used. The last id of
            its vocabulary is the separator.
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
        """Return logits (B, num_classes) of int64 ids (B, T).

        Args:
            tokens: first text, separator, second text.
            attention_mask: boolean (B, T), False at padding.

        Raises:
            ValueError: if a row is not two texts around one separator.
        """
        # One pass encodes all texts of the batch, first and second ones.
        texts_BT, present_BT = self._split(tokens, attention_mask)
        hidden_BTD = self.backbone(self.embedding(texts_BT), present_BT)
        first, second = self.norm(pooled(hidden_BTD, self.pooling, present_BT)).chunk(2)
        return self.head(torch.cat([first, second, first * second, (first - second) ** 2], dim=-1))

    def _split(self, tokens: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return all first texts, then all second texts, and their mask (None: no padding)."""
        # One copy to the CPU, so that the GPU is not waited for in every row.
        rows_BT = tokens.cpu().numpy()
        present_BT = None if attention_mask is None else attention_mask.cpu().numpy()
        firsts = []
        seconds = []
        for number, row in enumerate(rows_BT):
            ids = row if present_BT is None else row[present_BT[number]]
            places = np.flatnonzero(ids == self.separator)
            if len(places) != 1:
                raise ValueError(
                    f"row {number} has {len(places)} separators (id {self.separator}), "
                    "a pair of texts has exactly 1"
                )
            firsts.append(ids[: places[0]])
            seconds.append(ids[places[0] + 1 :])
        texts_BT, mask_BT = pad_tokens([*firsts, *seconds])
        return texts_BT.to(tokens.device), None if mask_BT is None else mask_BT.to(tokens.device)
