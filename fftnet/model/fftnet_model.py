"""The model: embedding, layers, norm, tied head."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fftnet import serialization
from fftnet.model.components import NORM_EPS
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_layer import FFTNetLayer
from fftnet.ops.positions import sinusoids
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE

State = tuple[Any, ...]
"""One state a layer: a tree of tensors. Its size does not depend on how much was read, but for attention."""


class FFTNet(nn.Module):
    """A language model (``causal=True``, the default) or an encoder (``causal=False``) without attention.

    Neither form has a length limit: ``max_seq_length`` is the window it was trained on.

    Args:
        config: sizes, form and mixers.

    Raises:
        ValueError: if ``causal=True`` and one of the mixers is not causal.
    """

    # Where several devices split the model: PyTorch's and Hugging Face's name for "never inside these".
    _no_split_modules = ("FFTNetLayer",)

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(FFTNetLayer(config, name) for name in config.layer_mixers)
        self.norm = nn.RMSNorm(config.d_model, NORM_EPS)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, layer in zip(config.layer_mixers, self.layers, strict=True):
            if config.causal and not layer.causal:
                raise ValueError(f"causal=True needs causal mixers, but {name!r} sees the whole sequence")

    def forward(self, tokens_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Logits of the next token (causal) or of the token itself (bidirectional).

        Args:
            tokens_BT: int64 ids, T >= 1, of any length.
            mask_BT: boolean, False at padding. Logits of the other tokens do not depend on padding.

        Returns:
            Logits (B, T, V).

        Raises:
            ValueError: on an empty sequence.
        """
        x_BTD = self._embed(tokens_BT)
        if not self.config.causal:
            counted = torch.ones_like(tokens_BT, dtype=torch.bool) if mask_BT is None else mask_BT
            position_BT = (counted.cumsum(dim=1) - 1).clamp(min=0)
            x_BTD = x_BTD + sinusoids(position_BT, x_BTD.shape[2], x_BTD.dtype)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT)
        return self._head(x_BTD)

    def init_state(self, batch_size: int) -> State:
        """The state before the first token.

        Raises:
            ValueError: if the model is bidirectional.
        """
        if not self.config.causal:
            raise ValueError("a bidirectional model has no state: it reads a whole sequence at once")
        return tuple(layer.init_state(batch_size) for layer in self._stack())

    def prefill(
        self,
        tokens_BT: Tensor,
        state: State | None = None,
        *,
        mask_BT: Tensor | None = None,
        chunk_size: int | None = None,
        logits_to_keep: int | None = None,
    ) -> tuple[Tensor, State]:
        """Read T tokens that follow what ``state`` has read; any split of a text gives the same logits.

        Args:
            tokens_BT: int64 ids, T >= 1.
            state: from :meth:`init_state` or an earlier call; None starts a text.
            mask_BT: boolean; a False token is not read. For prompts padded on the left.
            chunk_size: read in pieces of this many tokens, so that memory does not grow with T.
            logits_to_keep: return the logits of the last so many tokens only (None: of all).

        Returns:
            Logits (B, T or logits_to_keep, V) and the new state; the one handed in is left as it was.

        Raises:
            ValueError: on an empty sequence, a chunk size below 1, or a bidirectional model.
        """
        num_tokens = tokens_BT.shape[1]
        if state is None:
            state = self.init_state(tokens_BT.shape[0])
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        size, first_kept = chunk_size or max(num_tokens, 1), num_tokens - (logits_to_keep or num_tokens)
        pieces = []
        for start in range(0, max(num_tokens, 1), size):
            piece = slice(start, start + size)
            x_BTD = self._embed(tokens_BT[:, piece])
            states = []
            for layer, layer_state in zip(self._stack(), state, strict=True):
                x_BTD, layer_state = layer.prefill(
                    x_BTD, layer_state, None if mask_BT is None else mask_BT[:, piece]
                )
                states.append(layer_state)
            state = tuple(states)
            if start + x_BTD.shape[1] > first_kept:
                pieces.append(self._head(x_BTD[:, max(first_kept - start, 0) :]))
        return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0], state

    def step(self, token_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token: logits (B, V) of the next and the new state. The cost grows with attention only."""
        x_BD = self._embed(token_B)
        states = []
        for layer, layer_state in zip(self._stack(), state, strict=True):
            x_BD, layer_state = layer.step(x_BD, layer_state)
            states.append(layer_state)
        return self._head(x_BD), tuple(states)

    def num_parameters(self) -> int:
        """Learned numbers in the model."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``directory``.

        Raises:
            CheckpointError: if the folder can't be written.
        """
        self.save_config(directory)
        serialization.write_tensors(Path(directory) / WEIGHTS_FILE, self.state_dict())

    def save_config(self, directory: str | Path) -> None:
        """Write ``config.json`` alone, for a trainer that writes the weights itself.

        Raises:
            CheckpointError: if the folder can't be written.
        """
        serialization.write_json(Path(directory) / CONFIG_FILE, asdict(self.config))

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "FFTNet":
        """Read what :meth:`save_pretrained` wrote, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: naming the file that is missing, damaged or of another shape.
        """
        path = Path(directory) / CONFIG_FILE
        values = serialization.read_json(path)
        unknown = set(values) - {field.name for field in fields(FFTNetConfig)}
        if unknown:
            raise serialization.CheckpointError(
                f"{path} holds fields that this version does not know: {', '.join(sorted(unknown))}"
            )
        try:
            model = cls(FFTNetConfig(**values))
        except (TypeError, ValueError) as error:
            raise serialization.CheckpointError(f"{path} does not describe a model: {error}") from error
        serialization.load_weights(model, Path(directory) / WEIGHTS_FILE)
        return model.eval()

    def _stack(self) -> list[Any]:
        return list(self.layers)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.embedding(tokens))

    def _head(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(x), self.embedding.weight)
