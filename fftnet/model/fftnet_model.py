"""The model over tokens: embedding, backbone, tied head."""

from typing import Any

import torch
from torch import Tensor

from fftnet.model.backbone import Backbone
from fftnet.model.checks import check_ids, check_mask, given
from fftnet.model.components import TiedEmbedding
from fftnet.model.config import FFTNetConfig
from fftnet.model.exchange import CAUSAL_ARCHITECTURE, LANGUAGE, MASKED_ARCHITECTURE
from fftnet.model.pretrained import PretrainedModel
from fftnet.model.state import State


class FFTNet(PretrainedModel):
    """Language model (``causal=True``, the default) or encoder (``causal=False``) without attention.

    Neither has a length limit: ``max_seq_length`` is the training window.
    """

    config_class = FFTNetConfig
    config: FFTNetConfig
    tokenizer: Any = None
    """Tokenizer of the model, set by ``fftnet.load`` and ``fftnet.train``; not part of a checkpoint."""
    other_names = LANGUAGE.natives

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        self.embedding = TiedEmbedding(config.vocab_size, config.d_model)
        self.backbone = Backbone(config)

    @property
    def causal(self) -> bool:
        """True if the model sees only the past, so that it can generate."""
        return self.config.causal

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embedding.weight.device

    @property
    def architecture(self) -> str:
        """Name of the equivalent class of ``fftnet.hf``."""
        return CAUSAL_ARCHITECTURE if self.config.causal else MASKED_ARCHITECTURE

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """Return a causal model's state before the first token, on a device (None: that of the weights)."""
        return self.backbone.init_state(batch_size, device)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        logits_to_keep: int | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        """Return logits of the next token (causal) or of the token itself (bidirectional).

        Args:
            tokens: int64 ids (B, T), T >= 1.
            attention_mask: boolean (B, T), False at padding, which changes no other logit.
            state: state before the tokens, from ``init_state`` or an earlier call; it stays unchanged. None
                starts a text.
            logits_to_keep: number of last positions whose logits are returned (None: all).

        Returns:
            Logits (B, T or logits_to_keep, V); with a state, the pair of them and the new state.

        Raises:
            ValueError: on an empty sequence, ids that are not int64 or (checked on a CPU) outside the
                vocabulary, shapes that do not match, or a state of another model or batch.
        """
        check_ids(tokens)
        _check_keep(logits_to_keep)
        # The embedding is called as a module for both directions, so that offloading hooks see each use.
        x = self.embedding(tokens)
        if state is None:
            return self.embedding(_last(self.backbone(x, attention_mask), logits_to_keep))
        hidden, new_state = self.backbone(x, attention_mask, state)
        return self.embedding(_last(hidden, logits_to_keep)), new_state

    def prefill(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        attention_mask: Tensor | None = None,
        chunk_size: int | None = None,
        logits_to_keep: int | None = None,
    ) -> tuple[Tensor, State]:
        """Read T tokens after those of the state; any split of a text gives the same logits.

        Args:
            tokens: int64 ids (B, T), T >= 1.
            state: from ``init_state`` or an earlier call; it stays unchanged. None starts a text.
            attention_mask: boolean (B, T), False at tokens to skip, for example left padding of prompts.
            chunk_size: tokens read at once, which bounds memory (None: all).
            logits_to_keep: number of last positions whose logits are returned (None: all).

        Returns:
            Logits (B, T or logits_to_keep, V) and the new state.

        Raises:
            ValueError: if ``chunk_size`` is below 1, the model is bidirectional, or as in ``forward``.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        check_ids(tokens)
        if attention_mask is not None:
            check_mask(attention_mask, tokens.shape)
        _check_keep(logits_to_keep)
        num_tokens = tokens.shape[1]
        keep = num_tokens if logits_to_keep is None else logits_to_keep
        # From here on each chunk continues the state of the chunk before.
        read = self.init_state(tokens.shape[0], tokens.device) if state is None else state
        size = chunk_size or max(num_tokens, 1)
        kept = []
        for start in range(0, max(num_tokens, 1), size):
            piece = slice(start, start + size)
            mask = None if attention_mask is None else attention_mask[:, piece]
            # Of the last `keep` positions, `later` are in chunks that follow this one.
            later = max(num_tokens - piece.stop, 0)
            logits, read = self(tokens[:, piece], mask, read, max(keep - later, 0))
            # Empty logits are dropped: thousands of small tensors would fragment the heap.
            if logits.shape[1] or later == 0:
                kept.append(logits)
        return torch.cat(kept, dim=1) if len(kept) > 1 else kept[0], read

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token; the cost is independent of the tokens read before, except with attention.

        Args:
            token: int64 ids (B,).
            state: state before the token; it stays unchanged.

        Returns:
            Logits (B, V) of the next token and the new state.
        """
        if not isinstance(token, Tensor) or token.ndim != 1:
            place = f"a tensor of ids of shape (batch,), one a row, got {given(token)}"
            raise ValueError(f"token must be {place}: prefill reads several")
        logits, state = self(token[:, None], None, state)
        return logits[:, 0], state


def _check_keep(logits_to_keep: int | None) -> None:
    if logits_to_keep is not None and logits_to_keep < 0:
        raise ValueError(f"logits_to_keep must be 0 or more, or left out, got {logits_to_keep}")


def _last(hidden_BTD: Tensor, count: int | None) -> Tensor:
    """Return the last ``count`` tokens. The head runs on these only: it can cost more than the layers."""
    return hidden_BTD if count is None else hidden_BTD[:, max(hidden_BTD.shape[1] - count, 0) :]
