"""The minimal GRU of "Were RNNs all we needed?" (arXiv 2410.01201), behind the short convolution."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import ShortConv, check_whole_rows
from fftnet.fields import check_fields, check_range
from fftnet.model.mixers.base import Mixer


@dataclass(frozen=True, kw_only=True)
class MinGRUConfig:
    """The minimal GRU."""

    hidden_dim: int | None = None
    """Numbers that it carries (None: d_model)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "hidden_dim")


class MinGRUState(NamedTuple):
    """What it has read."""

    hidden: Tensor
    """(B, hidden_dim)."""
    past: Tensor
    """(B, 3, D), the last tokens."""


def scan(decay: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """``h(t) = decay(t) h(t-1) + added(t)``, in log2 T passes over all tokens.

    After a pass, each position holds the recurrence over twice as many tokens. Nothing is divided, so the
    result is as exact as the recurrence, whatever the decays.

    Args:
        decay: (B, T, E), factors in [0, 1].
        added: (B, T, E).
        start: (B, E), h before the first token.

    Returns:
        h at every position, (B, T, E).
    """
    h_BTE = torch.cat([added[:, :1] + decay[:, :1] * start[:, None], added[:, 1:]], dim=1)
    reach = 1
    tokens = added.shape[1]
    while reach < tokens:
        later = h_BTE[:, reach:] + decay[:, reach:] * h_BTE[:, :-reach]
        h_BTE = torch.cat([h_BTE[:, :reach], later], dim=1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], dim=1)
        reach *= 2
    return h_BTE


class MinGRU(Mixer):
    """``h(t) = (1 - z(t)) h(t-1) + z(t) g(t)``, where gate z and candidate g see the convolved token only.

    The candidate is positive, ``x + 1/2`` above 0 and ``sigmoid(x)`` below, as published.

    Args:
        d_model: width D of a token.
        num_heads: not used: it has none.
        config: its width (None: the default).
    """

    causal = True
    Config = MinGRUConfig

    def __init__(self, d_model: int, num_heads: int = 1, config: MinGRUConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        self.hidden_dim = (config or MinGRUConfig()).hidden_dim or d_model
        self.conv = ShortConv(d_model)
        self.project_in = nn.Linear(d_model, 2 * self.hidden_dim, bias=False)
        self.project_out = nn.Linear(self.hidden_dim, d_model, bias=False)

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> MinGRUState:
        """The state before the first token."""
        past = self.conv.init_state(batch_size, device)
        return MinGRUState(past.new_zeros(batch_size, self.hidden_dim), past)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: MinGRUState | None = None
    ) -> Tensor | tuple[Tensor, MinGRUState]:
        """Mix tokens (B, T, D) causally; with a state the pair of these and the new state.

        Raises:
            ValueError: on padding or another shape.
        """
        check_whole_rows(x, self.d_model, attention_mask)
        before = state or self.init_state(len(x), x.device)
        convolved_BTD, past = self.conv(x, before.past)
        # What is summed over tokens has the numbers of the weights, under autocast, too.
        projected_BT2E = self.project_in(convolved_BTD).to(self.project_in.weight.dtype)
        gate, candidate = projected_BT2E.chunk(2, dim=-1)
        candidate = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        h_BTE = scan(torch.sigmoid(-gate), torch.sigmoid(gate) * candidate, before.hidden)
        y_BTD = self.project_out(h_BTE)
        return y_BTD if state is None else (y_BTD, MinGRUState(h_BTE[:, -1], past))
