"""Gated linear attention with real keys, to compare with FFTNet's complex keys at the same size of state."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.baselines.short_conv import ShortConv, check_rows, start_matched
from fftnet.fields import check_fields, check_range
from fftnet.model.checks import head_dim
from fftnet.model.mixers.base import Mixer
from fftnet.ops.numerics import NORM_EPS

CHUNK = 64
"""Tokens of a chunk that is mixed by matrix products. The state is carried from chunk to chunk."""
STEPS = (1e-3, 1e-1)
"""Smallest and largest initial time step, as in Mamba-2."""
RATES = (1.0, 16.0)
"""Smallest and largest initial decay rate of a head, as in Mamba-2."""


@dataclass(frozen=True, kw_only=True)
class GatedLinearConfig:
    """Configuration of gated linear attention."""

    key_dim: int = 16
    """Width of a head's keys and queries. The state has key_dim * d_model numbers."""
    matched: bool = False
    """Start like FFTNet's causal layer: queries equal to keys, and keys that see the previous token."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "key_dim")


class GatedLinearState(NamedTuple):
    """State of gated linear attention."""

    memory: Tensor
    """Decayed sum of the outer products of keys and values, (B, H, key_dim, d)."""
    past: Tensor
    """The last projected tokens (B, 3, C), for the convolution."""


def mix(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute ``S(t) = e^(log_decay(t)) S(t-1) + k(t) v(t)^T`` and ``y(t) = q(t)^T S(t)`` in chunks.

    Args:
        queries: (B, T, H, K).
        keys: (B, T, H, K).
        values: (B, T, H, d).
        log_decay: (B, T, H), at most 0.
        memory: S before the first token, (B, H, K, d).

    Returns:
        y, (B, T, H, d), and S after the last token.
    """
    outputs = []
    for q, k, v, step in zip(
        *(x.transpose(1, 2).split(CHUNK, dim=2) for x in (queries, keys, values, log_decay[..., None])),
        strict=True,
    ):
        # Every exponent below is a sum of log-decays, so none is above 0 and nothing overflows.
        age_BHC = step[..., 0].cumsum(dim=-1)
        span_BHCC = age_BHC[..., :, None] - age_BHC[..., None, :]
        future_CC = torch.ones_like(span_BHCC[0, 0], dtype=torch.bool).triu(1)
        # Within the chunk as masked attention, before it through the state.
        weight_BHCC = (q @ k.mT) * span_BHCC.masked_fill(future_CC, -torch.inf).exp()
        outputs.append(weight_BHCC @ v + (q * age_BHC[..., None].exp()) @ memory)
        remaining_BHC1 = (age_BHC[..., -1:] - age_BHC)[..., None].exp()
        memory = age_BHC[..., -1, None, None].exp() * memory + (k * remaining_BHC1).mT @ v
    return torch.cat(outputs, dim=2).transpose(1, 2), memory


class GatedLinear(Mixer):
    """Convolved queries, keys and values; a memory with a decay per head and token; norm; output gate.

    Queries and keys are normalized over their width, values go through silu. The output has an RMS norm for
    each head and a sigmoid gate.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: width and start of the keys (None: the defaults).

    Raises:
        ValueError: if the heads do not divide the width.
    """

    causal = True
    Config = GatedLinearConfig

    def __init__(self, d_model: int, num_heads: int = 4, config: GatedLinearConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        self.head_dim = head_dim(d_model, num_heads)
        config = config or GatedLinearConfig()
        self.key_dim = config.key_dim
        self.widths = [num_heads * self.key_dim, num_heads * self.key_dim, d_model]
        self.project_in = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths))
        self.project_clock = nn.Linear(d_model, num_heads)
        self.log_rate = nn.Parameter(torch.empty(num_heads))
        self.read_norm = nn.Parameter(torch.ones(d_model))
        self.project_gate = nn.Linear(d_model, d_model, bias=False)
        self.project_out = nn.Linear(d_model, d_model, bias=False)
        self.reset_parameters()
        if config.matched:
            width = self.widths[0]
            queries, keys, _ = self.project_in.weight.split(self.widths)
            start_matched(queries, keys, self.conv.weight[width : 2 * width])

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Spread the initial decays of the heads evenly over the logarithm."""
        low, high = STEPS
        share_H = (torch.arange(self.num_heads) + 0.5) / self.num_heads
        # Evenly spread over the logarithm, from the slowest to the fastest head.
        step_H = low * (high / low) ** share_H
        # Inverse of softplus, so that the clock's bias gives these steps.
        self.project_clock.bias.copy_(step_H + torch.log(-torch.expm1(-step_H)))
        self.log_rate.copy_(torch.empty(self.num_heads).uniform_(*RATES).log())

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> GatedLinearState:
        """Return the state before the first token."""
        past = self.conv.init_state(batch_size, device)
        return GatedLinearState(past.new_zeros(batch_size, self.num_heads, self.key_dim, self.head_dim), past)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: GatedLinearState | None = None
    ) -> Tensor | tuple[Tensor, GatedLinearState]:
        """Mix tokens (B, T, D) causally; with a state, return the pair of mixed tokens and the new state.

        Raises:
            ValueError: on another shape, or padding that is not at the end of a row.
        """
        check_rows(x, self.d_model, attention_mask, state)
        before = state or self.init_state(len(x), x.device)
        convolved_BTC, past = self.conv(self.project_in(x), before.past)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)) for part in convolved_BTC.split(self.widths, dim=-1)
        )
        # Keys and queries of unit length keep the memory bounded.
        q = F.rms_norm(q, q.shape[-1:], eps=NORM_EPS) / math.sqrt(self.key_dim)
        k = F.rms_norm(k, k.shape[-1:], eps=NORM_EPS) / math.sqrt(self.key_dim)
        # Sums over tokens have the dtype of the weights, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            x, q, k, v = (part.to(self.log_rate.dtype) for part in (x, q, k, v))
            log_decay_BTH = -self.log_rate.exp() * F.softplus(self.project_clock(x))
            y_BTHd, memory = mix(q, k, F.silu(v), log_decay_BTH, before.memory)
        y_BTD = F.rms_norm(y_BTHd, y_BTHd.shape[-1:], eps=NORM_EPS).flatten(2) * self.read_norm
        y_BTD = self.project_out(y_BTD * torch.sigmoid(self.project_gate(x)))
        return y_BTD if state is None else (y_BTD, GatedLinearState(memory, past))
