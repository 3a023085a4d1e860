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
    """Losses and hits of every token of a batch."""

    loss: Tensor
    """Nats, float32 (B, T); 0 for tokens that do not count."""
    correct: Tensor
    """Boolean (B, T), True for counted tokens whose target is the likeliest token."""


def token_losses(logits: Tensor, targets: Tensor, loss_mask: Tensor) -> TokenLosses:
    """Return the cross-entropy of every counted token, computed in float32.

    Logits are (B, T, V), targets int64 ids (B, T), arbitrary where the boolean ``loss_mask`` is False.
    """
    # Targets that do not count may lie outside the vocabulary, which cross_entropy refuses.
    targets_BT = targets.masked_fill(~loss_mask, 0)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
    correct_BT = (logits.argmax(dim=-1) == targets_BT) & loss_mask
    return TokenLosses(loss.view(targets.shape) * loss_mask, correct_BT)


class TextTask:
    """Base of language-model tasks; an instance is the objective, ``token_bytes`` the bytes of each id."""

    Config: ClassVar[type[Any]] = NoSettings
    """Settings of the task."""
    unit = "tokens"
    """Name of the counted targets."""
    extra_tokens: ClassVar[int] = 0
    """Number of ids of the model that the tokenizer lacks."""

    def __init__(self, token_bytes: Sequence[int] | None = None) -> None:
        self._token_bytes = torch.tensor(token_bytes or [0])

    @classmethod
    def prepare(cls, request: Request) -> Prepared:
        """Learn or load the tokenizer and divide the text into windows."""
        config, data = request.model, request.data
        if data.carry_state and not (config.causal and hasattr(cls, "carry")):
            raise ValueError(
                "carry_state needs a model and a task with a state: a causal one, and next_token"
            )
        # A wrong model is reported before the text is read.
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
        """Return a language model for a tokenizer of ``vocab_size`` ids; ValueError if it can't be built."""
        cls.check_model(config)
        return FFTNet(FFTNetConfig(vocab_size=vocab_size + cls.extra_tokens, **sizes_of(config)))

    @staticmethod
    def check_model(config: BackboneConfig) -> None:
        """Raise ``ValueError`` for a model that can't have this objective."""

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the losses of a batch of text, in nats, and its metrics."""
        raise NotImplementedError

    def losses(self, logits: Tensor, targets: Tensor, loss_mask: Tensor) -> Losses:
        """Sum the losses of the counted tokens; arguments as in ``token_losses``.

        ``first_position_loss`` is the mean at position 0: far below the others, the model sees its target.
        """
        each = token_losses(logits, targets, loss_mask)
        loss = each.loss.sum()
        nats = loss.detach()
        count = loss_mask.sum()
        # Bytes do not depend on the tokenizer, so that bits per byte compare models of different ones.
        metrics = {
            "bits_per_byte": Mean(nats / math.log(2), self._bytes(targets, loss_mask)),
            "accuracy": Mean(each.correct.sum(), count),
            "perplexity": Mean(nats, count, exponential=True),
            "first_position_loss": Mean(each.loss[:, 0].detach().sum(), loss_mask[:, 0].sum()),
        }
        return Losses(loss, count, metrics)

    def _bytes(self, targets: Tensor, loss_mask: Tensor) -> Tensor:
        # Special tokens, such as the mask, may lie beyond the table.
        self._token_bytes = self._token_bytes.to(targets.device)
        known = targets.clamp(min=0, max=len(self._token_bytes) - 1)
        return (self._token_bytes[known] * loss_mask).sum()


def sizes_of(config: BackboneConfig) -> dict[str, Any]:
    """Return the fields of a ``BackboneConfig``, for a configuration that extends it."""
    return {field.name: getattr(config, field.name) for field in fields(BackboneConfig)}


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside a wrapper for several processes, or the model itself."""
    return getattr(model, "module", model)


def config_of(model: nn.Module) -> Any:
    """Return the configuration of a model, wrapped for several processes or not; None if it has none."""
    return getattr(unwrapped(model), "config", None)
