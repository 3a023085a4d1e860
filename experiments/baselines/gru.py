"""PyTorch's GRU behind the short convolution."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import ShortConv, check_whole_rows
from fftnet.fields import check_fields, check_range
from fftnet.model.mixers.base import Mixer


@dataclass(frozen=True, kw_only=True)
class ConvGRUConfig:
    """The GRU."""

    hidden_dim: int | None = None
    """Numbers that it carries (None: d_model)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "hidden_dim")


class ConvGRUState(NamedTuple):
    """What it has read."""

    hidden: Tensor
    """(B, hidden_dim)."""
    past: Tensor
    """(B, 3, D), the last tokens."""


class ConvGRU(Mixer):
    """Convolution, GRU, output projection. The GRU's weights do not decay, whatever the weight decay.

    Args:
        d_model: width D of a token.
        num_heads: not used: a GRU has none.
        config: width of the GRU (None: the default).
    """

    causal = True
    Config = ConvGRUConfig

    def __init__(self, d_model: int, num_heads: int = 1, config: ConvGRUConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        self.hidden_dim = (config or ConvGRUConfig()).hidden_dim or d_model
        self.conv = ShortConv(d_model)
        self.gru = nn.GRU(d_model, self.hidden_dim, batch_first=True)
        self.project_out = nn.Linear(self.hidden_dim, d_model, bias=False)

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> ConvGRUState:
        """The state before the first token."""
        past = self.conv.init_state(batch_size, device)
        return ConvGRUState(past.new_zeros(batch_size, self.hidden_dim), past)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: ConvGRUState | None = None
    ) -> Tensor | tuple[Tensor, ConvGRUState]:
        """Mix tokens (B, T, D) causally; with a state the pair of these and the new state.

        Raises:
            ValueError: on padding or another shape.
        """
        check_whole_rows(x, self.d_model, attention_mask)
        before = state or self.init_state(len(x), x.device)
        convolved_BTD, past = self.conv(x, before.past)
        hidden_BTE, last_1BE = self.gru(convolved_BTD, before.hidden[None])
        y_BTD = self.project_out(hidden_BTE)
        return y_BTD if state is None else (y_BTD, ConvGRUState(last_1BE[0], past))
