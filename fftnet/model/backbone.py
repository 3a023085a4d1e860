"""The stack of layers that every model has: from embeddings or features to hidden states."""

import torch
from torch import Tensor, nn

from fftnet.model.checks import check_input
from fftnet.model.components import RMSNorm
from fftnet.model.config import BackboneConfig
from fftnet.model.fftnet_layer import FFTNetLayer
from fftnet.model.state import State, check_state, layout_of
from fftnet.ops.attention import sinusoids


class Backbone(nn.Module):
    """Sinusoidal positions (bidirectional models only), dropout, layers of ``layer_class``, norm.

    A model is an embedding of its input, a backbone, and a head on the hidden states.
    """

    def __init__(self, config: BackboneConfig, layer_class: type[FFTNetLayer] = FFTNetLayer) -> None:
        super().__init__()
        self.d_model = config.d_model
        self.causal = config.causal
        self.position_scale = config.position_scale
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            layer_class(
                config.d_model,
                name,
                num_heads=config.num_heads,
                mixer_config=config.mixer_configs[name],
                ffn_dim=config.ffn_dim,
                dropout=config.dropout,
            )
            for name in config.layer_mixers
        )
        self.norm = RMSNorm(config.d_model)
        # States are checked against this layout; the meta device makes it free.
        self._layout = layout_of(self.init_state(1, "meta")) if config.causal else ()

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """Return the state before the first token, as ``FFTNet.init_state``."""
        self._check_causal()
        return tuple(layer.init_state(batch_size, device) for layer in self.layers)  # pyright: ignore

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        collected: list[Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        """Return hidden states (B, T, D) after the last norm; with a state, also the new state.

        ``x`` are embeddings or features (B, T, D); mask, state and errors are those of ``FFTNet.forward``.
        The input of each layer (B, T, D) and the result are appended to ``collected``, if it is given.
        """
        check_input(x, self.d_model, attention_mask)
        if self.dropout.training:
            x = self.dropout(x)
        # Without a state: training, and encoders, which see a whole sequence and so may have no state.
        if state is None:
            if not self.causal:
                x = x + self.position_scale * _positions(x, attention_mask)
            for layer in self.layers:
                _collect(collected, x)
                x = layer(x, attention_mask)
            hidden = self.norm(x)
            _collect(collected, hidden)
            return hidden
        self._check_causal()
        check_state(state, self._layout, x.shape[0])
        # A decode step drops the dimension of tokens: views of three dimensions would cost a few percent.
        single = attention_mask is None and x.shape[1] == 1
        if single:
            x = x[:, 0]
        # New states are collected, old ones stay as they are: they may be forked.
        states = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            _collect(collected, x)
            x, layer_state = layer(x, attention_mask, layer_state)
            states.append(layer_state)
        hidden = self.norm(x)
        if single:
            hidden = hidden[:, None]
        _collect(collected, hidden)
        return hidden, tuple(states)

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError("a bidirectional model has no state: it reads a whole sequence at once")


def _collect(collected: list[Tensor] | None, x: Tensor) -> None:
    if collected is not None:
        collected.append(x if x.ndim == 3 else x[:, None])


def _positions(x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return sinusoids of each token's position among the tokens of its row: padding is not counted."""
    if mask_BT is None:
        mask_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
    position_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    return sinusoids(position_BT, x_BTD.shape[2], x_BTD.dtype)
