"""Causal attention with rotary positions behind the short convolution: the reference of most experiments."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import ShortConv, check_rows, start_matched
from fftnet.model.checks import head_dim
from fftnet.model.mixers.base import Mixer
from fftnet.ops import attention


@dataclass(frozen=True, kw_only=True)
class ConvAttentionConfig:
    """Configuration of attention behind the short convolution."""

    matched: bool = False
    """Start like FFTNet's causal layer: queries equal to keys, and keys that see the previous token."""


class NoState(NamedTuple):
    """Empty state: a causal model makes one when it is built."""


class ConvAttention(Mixer):
    """Queries, keys and values, each convolved; rotary positions; softmax over the past; output projection.

    It carries no state: a key-value cache would grow with the text, and no experiment needs one.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D into even widths.
        config: start values (None: the default).

    Raises:
        ValueError: if the heads do not divide the width, or the width of a head is odd.
    """

    causal = True
    grows = True
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

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> NoState:
        """Return the empty state, which ``forward`` refuses."""
        return NoState()

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, state: object = None) -> Tensor:
        """Mix tokens (B, T, D) causally.

        Raises:
            ValueError: on a state, another shape, or padding that is not at the end of a row.
        """
        if state is not None:
            raise ValueError("this attention carries no state: read the whole text at once")
        check_rows(x, self.d_model, attention_mask)
        # Queries, keys and values are convolved, as FFTNet's keys and values are.
        convolved_BTC, _ = self.conv(self.project_in(x))
        q, k, v = convolved_BTC.unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        position_1T = torch.arange(x.shape[1], device=x.device)[None]
        q = attention.rotate(q, position_1T)
        k = attention.rotate(k, position_1T)
        return self.project_out(attention.causal_attention(q, k, v).flatten(2))
