"""Causal attention with rotary positions behind the short convolution: the arm that must solve recall."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import ShortConv, check_whole_rows, start_matched
from fftnet.model.checks import head_dim
from fftnet.model.mixers.base import Mixer
from fftnet.ops import attention


@dataclass(frozen=True, kw_only=True)
class ConvAttentionConfig:
    """Convolved attention."""

    matched: bool = False
    """Start as fftnet's mixer with addresses does: queries equal to keys, keys that see the token before."""


class ConvAttention(Mixer):
    """Queries, keys and values, each convolved; rotary positions; softmax over the past; output projection.

    It keeps no state: what it would carry grows with the text.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D into even widths.
        config: its start (None: the default).

    Raises:
        ValueError: if the heads do not divide the width, or the width of a head is odd.
    """

    causal = True
    Config = ConvAttentionConfig

    def __init__(self, d_model: int, num_heads: int = 4, config: ConvAttentionConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        if head_dim(d_model, num_heads) % 2:
            raise ValueError(f"attention needs an even head width, got {d_model // num_heads}")
        self.project_in = nn.Linear(d_model, 3 * d_model, bias=False)
        self.conv = ShortConv(3 * d_model)
        self.project_out = nn.Linear(d_model, d_model, bias=False)
        if config is not None and config.matched:
            queries, keys, _ = self.project_in.weight.chunk(3)
            start_matched(queries, keys, self.conv.weight[d_model : 2 * d_model])

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Any:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError("this attention carries no state: it would grow with the text")

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, state: None = None) -> Tensor:
        """Mix tokens (B, T, D) causally.

        Raises:
            ValueError: on padding, a state, or another shape.
        """
        check_whole_rows(x, self.d_model, attention_mask)
        if state is not None:
            self.init_state(len(x))
        convolved_BTC, _ = self.conv(self.project_in(x))
        q, k, v = convolved_BTC.unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        position_1T = torch.arange(x.shape[1], device=x.device)[None]
        q = attention.rotate(q, position_1T)
        k = attention.rotate(k, position_1T)
        return self.project_out(attention.causal_attention(q, k, v).flatten(2))
