"""The portable backend of the prefix context: cumulative sums, on any device."""

import torch
from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.numerics import compute_dtype

_SIGNATURE = Signature(
    "prefix_mean", {"x": "B T D", "mean": "B D", "count": "B: int64", "counted": "B T: bool?"}
)


def prefix_mean(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean of everything read up to and including each token.

    The state holds the mean rather than the sum, so it neither grows nor loses digits over a long text.

    Args:
        x: tokens (B, T, D) of any floating dtype, T >= 1; accumulated in float32 (float64 for float64).
        mean: mean of the tokens before, (B, D).
        count: int64 number of tokens before, (B,).
        counted: boolean (B, T); a False token is left out of the mean. None counts all.

    Returns:
        Means (B, T, D) in the dtype of ``x``, then the mean and the count after the last token.

    Raises:
        ValueError: if a tensor does not fit the others.
    """
    _SIGNATURE.check(x, mean, count, counted)
    dtype = compute_dtype(x)
    wide_BTD = x.to(dtype)
    if counted is None:
        read_BT = torch.arange(1, x.shape[1] + 1, device=x.device).expand(x.shape[0], -1)
    else:
        wide_BTD = wide_BTD * counted[..., None]
        read_BT = counted.cumsum(dim=1)
    total_BT = (count[:, None] + read_BT).clamp(min=1).to(dtype)
    weight_BT = count[:, None].to(dtype) / total_BT
    sums_BTD = wide_BTD.cumsum(dim=1)
    means_BTD = torch.addcmul(sums_BTD / total_BT[..., None], weight_BT[..., None], mean[:, None].to(dtype))
    return means_BTD.to(x.dtype), means_BTD[:, -1].clone(), count + read_BT[:, -1]


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``."""
    means_BTD, last, total = prefix_mean(x, mean, count, counted)
    return torch.cat([means_BTD, x], dim=-1), last, total
