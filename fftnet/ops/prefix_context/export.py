"""The prefix context without a loop over time, for exported programs with an open number of tokens.

``mean(t) = (1 - 1/m) mean(t-1) + x(t) / m``, with m the tokens read so far and at most the horizon, is a sum
over earlier tokens. Within a chunk every pair of tokens has one weight; the mean before each chunk is a sum
over the chunks before it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.chunks import chunked, decay_kernel, joined
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.prefix_context import eager

FORGOTTEN = 40.0
"""Replacement for minus the logarithm of 0: its exponential is below the precision of float64."""


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``."""
    if horizon is None:
        return eager.prefix_context(x, mean, count, counted, horizon)  # This has no loop either.
    dtype = compute_dtype(x)
    if counted is None:
        counted = torch.ones_like(x[..., 0], dtype=torch.bool)
    total_BT = count[:, None] + counted.cumsum(dim=1)
    size_BT = total_BT.clamp(min=1, max=horizon).to(dtype)
    # 1 - 1/m as an exponential, so that the weights of a chunk are exponentials of sums.
    decay_BT = torch.where(size_BT > 1, -torch.log1p(-1 / size_BT.clamp(min=2)), FORGOTTEN) * counted
    entering_BTD = x.to(dtype) * (counted / size_BT)[..., None]
    means_BTD, last = _discounted_sums(entering_BTD, decay_BT, mean.to(dtype))
    return torch.cat([means_BTD.to(x.dtype), x], dim=-1), last, total_BT[:, -1]


def _discounted_sums(x_BTD: Tensor, decay_BT: Tensor, start_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``y(t) = exp(-decay(t)) y(t-1) + x(t)`` of every token, and the last one."""
    x_BNCD = chunked(x_BTD)
    decay_BNC = chunked(decay_BT)
    near_BNCD = decay_kernel(decay_BNC) @ x_BNCD
    # Entry 0 is the sum before the first chunk, entry n what chunk n - 1 has left at its end.
    entries_BMD = torch.cat([start_BD[:, None], near_BNCD[:, :, -1]], dim=1)
    states_BMD = decay_kernel(functional.pad(decay_BNC.sum(dim=-1), (1, 0))) @ entries_BMD
    since_start_BNC = torch.exp(-decay_BNC.cumsum(dim=2))
    sums_BNCD = near_BNCD + since_start_BNC[..., None] * states_BMD[:, :-1, None]
    return joined(sums_BNCD, x_BTD.shape[1]), states_BMD[:, -1]
