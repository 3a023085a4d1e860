"""The model over tokens: embedding, backbone, tied head."""

from typing import Any

import torch
from torch import Tensor

from fftnet.model.backbone import Backbone
from fftnet.model.checks import check_ids, check_keep, check_mask, check_token
from fftnet.model.components import TiedEmbedding
from fftnet.model.config import FFTNetConfig
from fftnet.model.exchange import CAUSAL_ARCHITECTURE, LANGUAGE, MASKED_ARCHITECTURE
from fftnet.model.pretrained import PretrainedModel
from fftnet.model.state import State


class FFTNet(PretrainedModel):
    """A language model (``causal=True``, the default) or an encoder (``causal=False``) without attention.

    Neither form has a length limit: ``max_seq_length`` is the window it was trained on.

    Args:
        config: sizes, form and mixers.
    """

    config_class = FFTNetConfig
    config: FFTNetConfig
    tokenizer: Any = None
    """Tokenizer of the model, set by ``fftnet.load`` and ``fftnet.train``; no part of a checkpoint."""
    other_names = LANGUAGE.natives

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        self.embedding = TiedEmbedding(config.vocab_size, config.d_model)
        self.backbone = Backbone(config)

    @property
    def causal(self) -> bool:
        """Whether the model sees the past only, so that it can write."""
        return self.config.causal

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.weight.device

    @property
    def architecture(self) -> str:
        """Name of the class of ``fftnet.hf`` that computes the same."""
        return CAUSAL_ARCHITECTURE if self.config.causal else MASKED_ARCHITECTURE

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The state before the first token.

        Args:
            batch_size: rows B.
            device: where it lies (None: where the weights do).

        Raises:
            ValueError: if the model is bidirectional.
        """
        return self.backbone.init_state(batch_size, device)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        logits_to_keep: int | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        """Logits of the next token (causal) or of the token itself (bidirectional).

        Args:
            tokens: int64 ids (B, T), T >= 1, of any length.
            attention_mask: boolean (B, T), False at padding. Logits of the other tokens do not depend on it.
            state: what was read before, from ``init_state`` or an earlier call; it is left as it was.
                None starts a text.
            logits_to_keep: return the logits of the last so many tokens only (None: of all).

        Returns:
            Logits (B, T or logits_to_keep, V); with a state the pair of these and the new state.

        Raises:
            ValueError: on an empty sequence, ids that are not int64 or on a CPU not in the vocabulary, shapes
                that do not belong together, or a state of another model or batch.
        """
        check_ids(tokens)
        if logits_to_keep is not None:
            check_keep(logits_to_keep)
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
        """Read T tokens that follow what ``state`` has read; any split of a text gives the same logits.

        Args:
            tokens: int64 ids (B, T), T >= 1.
            state: from ``init_state`` or an earlier call; None starts a text.
            attention_mask: boolean (B, T); a False token is not read. For prompts padded on the left.
            chunk_size: read in chunks of this many tokens, so that memory does not grow with T.
            logits_to_keep: return the logits of the last so many tokens only (None: of all).

        Returns:
            Logits (B, T or logits_to_keep, V) and the new state; the one handed in is left as it was.

        Raises:
            ValueError: on a chunk size below 1, a bidirectional model, or as ``forward``.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        check_ids(tokens)
        if attention_mask is not None:
            check_mask(attention_mask, tokens.shape)
        num_tokens = tokens.shape[1]
        keep = num_tokens if logits_to_keep is None else logits_to_keep
        check_keep(keep)
        read = self.init_state(tokens.shape[0], tokens.device) if state is None else state
        size = chunk_size or max(num_tokens, 1)
        kept = []
        for start in range(0, max(num_tokens, 1), size):
            piece = slice(start, start + size)
            mask = None if attention_mask is None else attention_mask[:, piece]
            later = max(num_tokens - piece.stop, 0)
            logits, read = self(tokens[:, piece], mask, read, max(keep - later, 0))
            # What is empty is not kept either: thousands of small tensors would break up the heap.
            if logits.shape[1] or later == 0:
                kept.append(logits)
        return torch.cat(kept, dim=1) if len(kept) > 1 else kept[0], read

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token.

        Args:
            token: int64 ids (B,).
            state: what was read before; it is left as it was.

        Returns:
            Logits (B, V) of the next token and the new state. The cost grows with attention only.

        Raises:
            ValueError: as ``forward``.
        """
        check_token(token)
        logits, state = self(token[:, None], None, state)
        return logits[:, 0], state


def _last(hidden_BTD: Tensor, count: int | None) -> Tensor:
    """The last ``count`` tokens: the head on all the others would cost more than their layers."""
    if count is None:
        return hidden_BTD
    return hidden_BTD[:, max(hidden_BTD.shape[1] - count, 0) :]
