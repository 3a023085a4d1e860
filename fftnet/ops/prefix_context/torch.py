"""The portable backend of the prefix context: cumulative sums, on any device.

``mean(t) = mean(t-1) + (x(t) - mean(t-1)) / min(n(t), horizon)`` is solved by weights: with
``w(n) = n`` up to the horizon h and ``w(n) = h (1 - 1/h)^(h-n)`` beyond it, ``w(n) mean(n)`` is the sum of
``w(j) x(j) / min(j, h)`` over the tokens up to n. The weights grow, so they are taken anew in every block.
"""

import math

import torch
from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.numerics import compute_dtype

_SIGNATURE = Signature(
    "prefix_mean", {"x": "B T D", "mean": "B D", "count": "B: int64", "counted": "B T: bool?"}
)


BLOCK = 256
"""Most tokens whose weights are compared."""
LARGEST = 80.0
"""Logarithm of how much larger a weight of the same block may be: float32 ends at 88."""


def check_horizon(operator: str, horizon: int | None) -> None:
    """Refuse what is no number of tokens.

    Raises:
        ValueError: if the horizon is below 1; it begins with the operator's name.
    """
    if horizon is not None and horizon < 1:
        raise ValueError(f"{operator}: horizon must be at least 1, got {horizon}")


def prefix_mean(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None = None, horizon: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean of what was read up to and including each token.

    The state holds the mean rather than the sum, so it neither grows nor loses digits over a long text.

    Args:
        x: tokens (B, T, D) of any floating dtype, T >= 1; accumulated in float32 (float64 for float64).
        mean: mean of the tokens before, (B, D).
        count: int64 number of tokens before, (B,).
        counted: boolean (B, T); a False token is left out of the mean. None counts all.
        horizon: from that many tokens on the mean forgets: a token enters with the weight 1 / horizon. None
            keeps the mean of everything.

    Returns:
        Means (B, T, D) in the dtype of ``x``, then the mean and the count after the last token.

    Raises:
        ValueError: if a tensor does not fit the others.
    """
    _SIGNATURE.check(x, mean, count, counted)
    dtype = compute_dtype(x)
    mean = mean.to(dtype)
    if horizon is None:
        means_BTD, count = _mean_of_block(x.to(dtype), mean, count, counted, None)
        return means_BTD.to(x.dtype), means_BTD[:, -1].clone(), count
    means = []
    size = min(BLOCK, int(LARGEST / _growth(horizon)))
    masks = [None] * x.shape[1] if counted is None else counted.split(size, dim=1)
    for block, mask in zip(x.to(dtype).split(size, dim=1), masks, strict=False):
        means_BLD, count = _mean_of_block(block, mean, count, mask, horizon)
        mean = means_BLD[:, -1].clone()
        means.append(means_BLD)
    return torch.cat(means, dim=1).to(x.dtype), mean, count


def _growth(horizon: int) -> float:
    """Logarithm of how much more a token weighs than the one before it, beyond the horizon."""
    # At a horizon of 1 infinitely more; this much puts the one before below what float64 holds.
    return -math.log1p(-1 / horizon) if horizon > 1 else 40.0


def _mean_of_block(
    x_BLD: Tensor, mean_BD: Tensor, count_B: Tensor, counted_BL: Tensor | None, horizon: int | None
) -> tuple[Tensor, Tensor]:
    dtype = x_BLD.dtype
    if counted_BL is None:
        read_BL = torch.arange(1, x_BLD.shape[1] + 1, device=x_BLD.device).expand(x_BLD.shape[0], -1)
    else:
        x_BLD = x_BLD * counted_BL[..., None]
        read_BL = counted_BL.cumsum(dim=1)
    total_BL = count_B[:, None] + read_BL
    size_BL = total_BL.clamp(min=1).to(dtype)
    before_B1 = count_B[:, None].to(dtype)
    if horizon is not None:
        entering_BL = size_BL.clamp(max=horizon)
        beyond_BL = (size_BL - horizon).clamp(min=0)
        already_B1 = (before_B1 - horizon).clamp(min=0)
        size_BL = entering_BL * torch.exp(_growth(horizon) * (beyond_BL - already_B1))
        before_B1 = before_B1.clamp(max=horizon)
        x_BLD = x_BLD * (size_BL / entering_BL)[..., None]
    sums_BLD = x_BLD.cumsum(dim=1)
    weight_BL = before_B1 / size_BL
    means_BLD = torch.addcmul(sums_BLD / size_BL[..., None], weight_BL[..., None], mean_BD[:, None])
    return means_BLD, count_B + read_BL[:, -1]


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``."""
    means_BTD, last, total = prefix_mean(x, mean, count, counted, horizon)
    return torch.cat([means_BTD, x], dim=-1), last, total
