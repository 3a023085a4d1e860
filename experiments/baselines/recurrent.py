"""Recurrent baselines behind the short convolution: PyTorch's GRU and the minimal GRU (arXiv 2410.01201)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import ShortConv, check_rows
from fftnet.fields import check_fields, check_range
from fftnet.model.mixers.base import Mixer


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Configuration of both recurrent baselines."""

    hidden_dim: int | None = None
    """Width of the hidden state (None: d_model)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "hidden_dim")


class RecurrentState(NamedTuple):
    """State of both recurrent baselines."""

    hidden: Tensor
    """Hidden state (B, hidden_dim)."""
    past: Tensor
    """The last tokens (B, 3, D), for the convolution."""


class Recurrent(Mixer):
    """Short convolution, recurrence, output projection.

    Args:
        d_model: width D of a token.
        num_heads: not used.
        config: width of the hidden state (None: the default).
    """

    causal = True
    Config = RecurrentConfig

    def __init__(self, d_model: int, num_heads: int = 1, config: RecurrentConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        self.hidden_dim = (config or RecurrentConfig()).hidden_dim or d_model
        self.conv = ShortConv(d_model)
        self._add_recurrence()
        self.project_out = nn.Linear(self.hidden_dim, d_model, bias=False)

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> RecurrentState:
        """Return the state before the first token."""
        past = self.conv.init_state(batch_size, device)
        return RecurrentState(past.new_zeros(batch_size, self.hidden_dim), past)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: RecurrentState | None = None
    ) -> Tensor | tuple[Tensor, RecurrentState]:
        """Mix tokens (B, T, D) causally; with a state, return the pair of mixed tokens and the new state.

        Raises:
            ValueError: on another shape, or padding that is not at the end of a row.
        """
        check_rows(x, self.d_model, attention_mask, state)
        # Without a state the text begins, and none is returned.
        before = state or self.init_state(len(x), x.device)
        convolved_BTD, past = self.conv(x, before.past)
        hidden_BTE = self._recur(convolved_BTD, before.hidden)
        y_BTD = self.project_out(hidden_BTE)
        return y_BTD if state is None else (y_BTD, RecurrentState(hidden_BTE[:, -1], past))

    def _add_recurrence(self) -> None:
        raise NotImplementedError

    def _recur(self, x_BTD: Tensor, start_BE: Tensor) -> Tensor:
        raise NotImplementedError


class ConvGRU(Recurrent):
    """PyTorch's GRU. Its weights do not decay, whatever the weight decay.

    Args:
        d_model: width D of a token.
        num_heads: not used.
        config: width of the hidden state (None: the default).
    """

    def _add_recurrence(self) -> None:
        self.gru = nn.GRU(self.d_model, self.hidden_dim, batch_first=True)

    def _recur(self, x_BTD: Tensor, start_BE: Tensor) -> Tensor:
        return self.gru(x_BTD, start_BE[None])[0]


class MinGRU(Recurrent):
    """``h(t) = (1 - z(t)) h(t-1) + z(t) g(t)``, where gate z and candidate g see the convolved token only.

    The candidate is positive, ``x + 1/2`` above 0 and ``sigmoid(x)`` below, as published.

    Args:
        d_model: width D of a token.
        num_heads: not used.
        config: width of the hidden state (None: the default).
    """

    def _add_recurrence(self) -> None:
        self.project_in = nn.Linear(self.d_model, 2 * self.hidden_dim, bias=False)

    def _recur(self, x_BTD: Tensor, start_BE: Tensor) -> Tensor:
        # Sums over tokens have the dtype of the weights, also under autocast.
        projected_BT2E = self.project_in(x_BTD).to(self.project_in.weight.dtype)
        gate, candidate = projected_BT2E.chunk(2, dim=-1)
        # The candidate is positive, as published.
        candidate = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        return scan(torch.sigmoid(-gate), torch.sigmoid(gate) * candidate, start_BE)


def scan(decay: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """Compute ``h(t) = decay(t) h(t-1) + added(t)`` in log2 T passes over all tokens.

    Args:
        decay: (B, T, E), factors in [0, 1].
        added: (B, T, E).
        start: (B, E), h before the first token.

    Returns:
        h at every position, (B, T, E).
    """
    h_BTE = torch.cat([added[:, :1] + decay[:, :1] * start[:, None], added[:, 1:]], dim=1)
    reach = 1
    # After a pass, each position holds the recurrence over twice as many tokens. Nothing is divided, so the
    # result is as exact as the recurrence, whatever the decays.
    while reach < added.shape[1]:
        later = h_BTE[:, reach:] + decay[:, reach:] * h_BTE[:, :-reach]
        h_BTE = torch.cat([h_BTE[:, :reach], later], dim=1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], dim=1)
        reach *= 2
    return h_BTE
