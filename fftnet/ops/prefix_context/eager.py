"""The portable backend of the prefix context: cumulative sums, on any device.

``mean(t) = mean(t-1) + (x(t) - mean(t-1)) / min(n(t), horizon)`` is solved by weights. With ``w(n) = n`` up
to the horizon h and ``w(n) = h (1 - 1/h)^(h-n)`` beyond it, ``w(n) mean(n)`` is the sum of
``w(j) x(j) / min(j, h)`` over the tokens up to n. The weights grow without bound, so each block starts with
new ones.
"""

import math

import torch
from torch import Tensor

from fftnet.ops.chunks import in_blocks
from fftnet.ops.numerics import compute_dtype

BLOCK = 256
"""Largest number of tokens in a block; without a horizon weights grow so slowly that one block does."""
LARGEST = 40.0
"""Largest logarithm of the ratio of two weights in a block, far below the 88 at which float32 overflows."""


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``."""
    dtype = compute_dtype(x)
    tokens = x.shape[1]
    # Within a block the last weight is at most e^LARGEST times the first.
    length = tokens if horizon is None else min(BLOCK, int(LARGEST / _growth(horizon)), tokens)
    # A token that does not count adds nothing to the sum, and the count stays.
    x_BTD = x.to(dtype) if counted is None else x.to(dtype) * counted[..., None]
    x_BNLD = in_blocks(x_BTD, length)
    # The number of counted tokens up to and including each, without padding.
    blocks = x_BNLD.shape[1:3]
    if counted is None:
        read_M = torch.arange(1, blocks[0] * blocks[1] + 1, device=x.device).clamp(max=tokens)
        total_BNL = count[:, None, None] + read_M.view(blocks)
    else:
        read_BNL = in_blocks(counted, length).flatten(1).cumsum(dim=1).unflatten(1, blocks)
        total_BNL = count[:, None, None] + read_BNL
    before_BN = torch.cat([count[:, None], total_BNL[:, :-1, -1]], dim=1)
    local_BNLD, weight_BNL = _means_of_blocks(x_BNLD, total_BNL, before_BN, horizon)
    # Only one mean a row goes from block to block; all else was computed for all blocks at once.
    starts = [mean.to(dtype)]
    for local_BD, weight_B in zip(
        local_BNLD[:, :-1, -1].unbind(1), weight_BNL[:, :-1, -1].unbind(1), strict=True
    ):
        starts.append(torch.addcmul(local_BD, weight_B[:, None], starts[-1]))
    starts_BN1D = torch.stack(starts, dim=1)[:, :, None]
    means_BTD = torch.addcmul(local_BNLD, weight_BNL[..., None], starts_BN1D).flatten(1, 2)[:, :tokens]
    # A plain clone keeps the strides of a slice, for which torch.compile would compile a step again.
    last, total = (
        end.clone(memory_format=torch.contiguous_format) for end in (means_BTD[:, -1], total_BNL[:, -1, -1])
    )
    return torch.cat([means_BTD.to(x.dtype), x], dim=-1), last, total


def _growth(horizon: int) -> float:
    """Return the logarithm of the ratio of two successive tokens' weights, beyond the horizon."""
    # At a horizon of 1 it is infinite; 40 puts the token before below the precision of float64.
    return -math.log1p(-1 / horizon) if horizon > 1 else 40.0


def _means_of_blocks(
    x_BNLD: Tensor, total_BNL: Tensor, before_BN: Tensor, horizon: int | None
) -> tuple[Tensor, Tensor]:
    """Return within-block running means, and the weight of the carried-in mean."""
    dtype = x_BNLD.dtype
    before_BN1 = before_BN[..., None]
    size_BNL = total_BNL.clamp(min=1).to(dtype)
    if horizon is not None:
        # Counts are compared as integers: float32 holds no odd number above 2^24.
        entered_BNL = (total_BNL - horizon).clamp(min=0) - (before_BN1 - horizon).clamp(min=0)
        growth_BNL = torch.exp(_growth(horizon) * entered_BNL.to(dtype))
        x_BNLD = x_BNLD * growth_BNL[..., None]
        size_BNL = size_BNL.clamp(max=horizon) * growth_BNL
        before_BN1 = before_BN1.clamp(max=horizon)
    return x_BNLD.cumsum(dim=2) / size_BNL[..., None], before_BN1.to(dtype) / size_BNL
