"""The two small causal operations around the mixing, each continuing from a state: mean and convolution."""

import torch
from torch import Tensor

from fftnet.ops.numerics import compute_dtype


def prefix_mean(
    x_BTD: Tensor, mean_BD: Tensor, count_B: Tensor, counted_BT: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean of everything read up to and including each token.

    The state holds the mean rather than the sum, so it neither grows nor loses digits over a long text.

    Args:
        x_BTD: tokens of any floating dtype, T >= 1; accumulated in float32 (float64 for float64).
        mean_BD: mean of the tokens before.
        count_B: int64 number of tokens before.
        counted_BT: boolean; a False token is left out of the mean. None counts all.

    Returns:
        Means (B, T, D) in the dtype of ``x_BTD``, then the mean and the count after the last token.

    Raises:
        ValueError: if T is 0.
    """
    if x_BTD.shape[1] == 0:
        raise ValueError("a prefix needs at least one token, got a sequence of length 0")
    dtype = compute_dtype(x_BTD)
    x = x_BTD.to(dtype)
    if counted_BT is None:
        read_BT = torch.arange(1, x.shape[1] + 1, device=x.device).expand(x.shape[0], -1)
    else:
        x = x * counted_BT[..., None]
        read_BT = counted_BT.cumsum(dim=1)
    total_BT = (count_B[:, None] + read_BT).clamp(min=1).to(dtype)
    weight_BT = count_B[:, None].to(dtype) / total_BT
    means = torch.addcmul(x.cumsum(dim=1) / total_BT[..., None], weight_BT[..., None], mean_BD[:, None])
    return means.to(x_BTD.dtype), means[:, -1].clone(), count_B + read_BT[:, -1]


def causal_conv(x_BTD: Tensor, weight_DW: Tensor, last_BPD: Tensor) -> tuple[Tensor, Tensor]:
    """Depth-wise causal convolution: ``y(t) = sum_i weight[W-1-i] * x(t-i)``.

    Args:
        x_BTD: tokens.
        weight_DW: one filter of width W for each channel, the newest token's tap last.
        last_BPD: the P = W - 1 tokens before the first.

    Returns:
        Convolved tokens (B, T, D) and the last P tokens for the call that continues.
    """
    tokens, width = x_BTD.shape[1], weight_DW.shape[1]
    padded = torch.cat([last_BPD.to(x_BTD.dtype), x_BTD], dim=1)
    y = padded[:, :tokens] * weight_DW[:, 0]
    for tap in range(1, width):
        y = torch.addcmul(y, padded[:, tap : tap + tokens], weight_DW[:, tap])
    return y, padded[:, tokens:].to(last_BPD.dtype, copy=True)
