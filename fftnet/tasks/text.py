"""The common part of tasks on text: the loss of every token, its metrics, the model and the data."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.protocols import Batch, Losses, Mean
from fftnet.tasks.base import NoSettings, Prepared, Request
from fftnet.utils.dataset import load_data, training_texts
from fftnet.utils.tokenizer import load_tokenizer


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
    """The base of tasks on text: windows of tokens, a language model, one loss a token; also the objective.

    Args:
        token_bytes: bytes of text that each id of the tokenizer stands for; None leaves bits per byte out.
    """

    Config: ClassVar[type[Any]] = NoSettings
    """The task's own settings."""
    unit = "tokens"
    """Name of the things that are counted."""
    extra_tokens: ClassVar[int] = 0
    """Ids that the model has beside those of the tokenizer."""

    def __init__(self, token_bytes: Sequence[int] | None = None) -> None:
        self._token_bytes = torch.tensor(token_bytes or [0])

    @classmethod
    def prepare(cls, request: Request) -> Prepared:
        """Learn or load the tokenizer and divide the text into windows.

        Raises:
            ValueError: if the model can't have this objective, or rows of the data go on and it has no state.
            DataError: if a source can't be read, or is too short to train on.
        """
        config, data = request.model, request.data
        if data.carry_state and not (config.causal and hasattr(cls, "carry")):
            raise ValueError(
                "carry_state needs a model and a task with a state: a causal one, and next_token"
            )
        cls.check_model(config)
        tokenizer = load_tokenizer(data.tokenizer, corpus=training_texts(data), vocab_size=data.vocab_size)
        return Prepared(
            build_model=lambda: cls.build_model(config, tokenizer.vocab_size),
            objective=cls(tokenizer.token_bytes()),
            splits=load_data(data, tokenizer, config.max_seq_length),
            tokenizer=tokenizer,
        )

    @classmethod
    def build_model(cls, config: BackboneConfig, vocab_size: int) -> FFTNet:
        """A language model.

        Args:
            config: its sizes.
            vocab_size: ids of the tokenizer.

        Raises:
            ValueError: if its sizes do not fit together, or it can't have this objective.
        """
        cls.check_model(config)
        return FFTNet(FFTNetConfig(vocab_size=vocab_size + cls.extra_tokens, **sizes_of(config)))

    @staticmethod
    def check_model(config: BackboneConfig) -> None:
        """Refuse, with a ``ValueError``, a model that can't have this objective."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses in nats and metrics of a batch of text."""
        raise NotImplementedError

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
            "bits_per_byte": Mean(nats / math.log(2), self._bytes(targets, loss_mask)),
            "accuracy": Mean(each.correct.sum(), count),
            "perplexity": Mean(nats, count, exponential=True),
            "first_position_loss": Mean(each.loss[:, 0].detach().sum(), loss_mask[:, 0].sum()),
        }
        return Losses(loss, count, metrics)

    def _bytes(self, targets: Tensor, loss_mask: Tensor) -> Tensor:
        self._token_bytes = self._token_bytes.to(targets.device)
        known = targets.clamp(min=0, max=len(self._token_bytes) - 1)
        return (self._token_bytes[known] * loss_mask).sum()


def sizes_of(config: BackboneConfig) -> dict[str, Any]:
    """The fields of a ``BackboneConfig``, for a configuration that has more of them."""
    return {field.name: getattr(config, field.name) for field in fields(BackboneConfig)}


def unwrapped(model: nn.Module) -> Any:
    """The model itself, be it wrapped for several processes or not."""
    return getattr(model, "module", model)


def config_of(model: nn.Module) -> Any:
    """The configuration of a model, be it wrapped for several processes or not; None where it has none."""
    return getattr(unwrapped(model), "config", None)
