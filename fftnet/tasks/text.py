"""The common part of objectives on text: the loss of every token, its metrics, the model and the data."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.protocols import Losses, Mean, TextEncoder
from fftnet.utils.dataset import DataConfig, Splits, load_data


class TokenLosses(NamedTuple):
    """Results of every token of a batch."""

    loss: Tensor
    """Nats, float32 (B, T); 0 where not counted."""
    correct: Tensor
    """Boolean (B, T), whether the likeliest token is the target; False where not counted."""


def token_losses(logits: Tensor, targets: Tensor, loss_mask: Tensor) -> TokenLosses:
    """Cross-entropy of every counted token, computed in float32.

    Args:
        logits: (B, T, V), of any floating dtype.
        targets: int64 ids (B, T), anything where not counted.
        loss_mask: boolean (B, T), the tokens that count.
    """
    targets_BT = targets.masked_fill(~loss_mask, 0)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
    correct_BT = (logits.argmax(dim=-1) == targets_BT) & loss_mask
    return TokenLosses(loss.view(targets.shape) * loss_mask, correct_BT)


class TextTask:
    """The base of objectives on text: data as windows of tokens, a language model, one loss a token.

    Args:
        token_bytes: bytes of text that each id of the tokenizer stands for; None leaves bits per byte out.
    """

    unit = "tokens"
    """Name of the things that are counted."""

    def __init__(self, token_bytes: Sequence[int] | None = None) -> None:
        self._token_bytes = torch.tensor(token_bytes or [0])

    @staticmethod
    def load_splits(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
        """Training, validation and test data as batches of text.

        Raises:
            DataError: if a source can't be read, or is too short to train on.
        """
        return load_data(config, tokenizer, max_seq_length)

    def losses(self, logits: Tensor, targets: Tensor, loss_mask: Tensor) -> Losses:
        """Sum of the losses of the counted tokens, and the metrics of text.

        Args:
            logits: (B, T, V).
            targets: int64 ids (B, T), anything where not counted.
            loss_mask: boolean (B, T).

        Returns:
            Losses in nats with the metrics perplexity, accuracy, bits_per_byte (where the bytes of tokens are
            known) and first_position_loss (of position 0 alone, nats: far below the others, the model sees
            its target).
        """
        each = token_losses(logits, targets, loss_mask)
        loss = each.loss.sum()
        nats = loss.detach()
        count = loss_mask.sum()
        metrics = {
            "perplexity": Mean(nats, count, exponential=True),
            "accuracy": Mean(each.correct.sum(), count),
            "bits_per_byte": Mean(nats / math.log(2), self._bytes(targets, loss_mask)),
            "first_position_loss": Mean(each.loss[:, 0].detach().sum(), loss_mask[:, 0].sum()),
        }
        return Losses(loss, count, metrics)

    def _bytes(self, targets: Tensor, loss_mask: Tensor) -> Tensor:
        self._token_bytes = self._token_bytes.to(targets.device)
        known = targets.clamp(min=0, max=len(self._token_bytes) - 1)
        return (self._token_bytes[known] * loss_mask).sum()


def language_model(config: BackboneConfig, vocab_size: int) -> FFTNet:
    """An FFTNet of the sizes in ``config`` over so many tokens.

    Raises:
        ValueError: if the sizes do not fit together.
    """
    sizes = {field.name: getattr(config, field.name) for field in fields(BackboneConfig)}
    return FFTNet(FFTNetConfig(vocab_size=vocab_size, **sizes))


def unwrapped(model: nn.Module) -> Any:
    """The model itself, be it wrapped for several processes or not."""
    return getattr(model, "module", model)


def config_of(model: nn.Module) -> Any:
    """The configuration of a model, be it wrapped for several processes or not; None where it has none."""
    return getattr(unwrapped(model), "config", None)
