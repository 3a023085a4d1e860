"""The prefix context without a loop over time, for exported programs whose number of tokens stays open.

``mean(t) = (1 - 1/m) mean(t-1) + x(t) / m`` with m the tokens read so far, at most the horizon, is a sum over
earlier tokens. Within a chunk every pair of tokens has one weight; the mean before each chunk is a sum over
the chunks before it. Without a horizon ``torch`` has no loop either.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.chunks import ages, chunked, joined, not_later
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.prefix_context import eager as plain

FORGOTTEN = 40.0
"""In place of minus the logarithm of 0: what is weighed with its exponential is below what float64 holds."""


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``."""
    if horizon is None:
        return plain.prefix_context(x, mean, count, counted, horizon)
    dtype = compute_dtype(x)
    if counted is None:
        counted = torch.ones_like(x[..., 0], dtype=torch.bool)
    total_BT = count[:, None] + counted.cumsum(dim=1)
    size_BT = total_BT.clamp(min=1, max=horizon).to(dtype)
    kept_BT = torch.where(size_BT > 1, -torch.log1p(-1 / size_BT.clamp(min=2)), FORGOTTEN) * counted
    entering_BTD = x.to(dtype) * (counted / size_BT)[..., None]
    means_BTD, last = _discounted_sums(entering_BTD, kept_BT, mean.to(dtype))
    return torch.cat([means_BTD.to(x.dtype), x], dim=-1), last, total_BT[:, -1]


def _discounted_sums(x_BTD: Tensor, time_BT: Tensor, start_BD: Tensor) -> tuple[Tensor, Tensor]:
    """``y(t) = exp(-time(t)) y(t-1) + x(t)`` for every token, and behind the last one."""
    x_BNCD = chunked(x_BTD)
    time_BNC = chunked(time_BT)
    weight_BNCC = torch.exp(-ages(time_BNC)) * not_later(time_BNC)
    near_BNCD = weight_BNCC @ x_BNCD
    # Entry 0 is what was there before the first chunk, entry n what chunk n - 1 has left at its end.
    entries_BMD = torch.cat([start_BD[:, None], near_BNCD[:, :, -1]], dim=1)
    time_BM = functional.pad(time_BNC.sum(dim=-1), (1, 0))
    states_BMD = (torch.exp(-ages(time_BM)) * not_later(time_BM)) @ entries_BMD
    fallen_BNC = torch.exp(-time_BNC.cumsum(dim=2))
    means_BNCD = near_BNCD + fallen_BNC[..., None] * states_BMD[:, :-1, None]
    return joined(means_BNCD, x_BTD.shape[1]), states_BMD[:, -1]
