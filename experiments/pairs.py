"""Pairs of texts, as Long Range Arena has them: one model encodes each alone; then they are compared."""

import torch
from torch import Tensor, nn

from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.pooling import pooled


class PairClassifier(nn.Module):
    """Two texts of equal length, with a separator between them, to a class.

    What is compared are the pooled hidden states of both, their product and their squared difference, after
    each number has been standardised over the batch: texts differ by a small part of what they share.

    Args:
        encoder: its embedding and backbone read both texts; its own linear layer is taken out.
    """

    def __init__(self, encoder: FFTNetForSequenceClassification) -> None:
        super().__init__()
        config = encoder.config
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
        """Logits (B, num_classes) of int64 ids (B, 2 T + 1).

        Args:
            tokens: a text, one id that is not read, the other text.
            attention_mask: None, since all rows have one length.

        Raises:
            ValueError: if there is padding, or the two texts can't be of one length.
        """
        if attention_mask is not None:
            raise ValueError("pairs of texts come in rows of one length, without padding")
        length = tokens.shape[1] // 2
        if tokens.shape[1] != 2 * length + 1:
            raise ValueError(f"two texts of one length and a separator can't have {tokens.shape[1]} ids")
        both = torch.cat([tokens[:, :length], tokens[:, length + 1 :]])
        hidden = self.backbone(self.embedding(both))
        first, second = self.norm(pooled(hidden, self.pooling)).chunk(2)
        return self.head(torch.cat([first, second, first * second, (first - second) ** 2], dim=-1))
