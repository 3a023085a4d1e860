"""The portable backend of the gated convolution: shifted copies of the tokens, on any device."""

import torch
from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.numerics import compute_dtype

_SIGNATURE = Signature(
    "causal_conv",
    {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"},
    derived={"P": lambda sizes: sizes["W"] - 1},
)


def causal_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor]:
    """Depth-wise causal convolution: ``y(t) = sum_i weight[W-1-i] * x(t-i)``.

    Args:
        x: tokens (B, T, C) of any floating dtype, T >= 1; computed in float32 (float64 for float64).
        conv_weight: one filter of W taps for each channel, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 tokens before the first, (B, P, C).

    Returns:
        Convolved tokens (B, T, C), and the last P tokens for the call that continues, in the dtype of
        ``conv_state``.

    Raises:
        ValueError: if a tensor does not fit the others.
    """
    _SIGNATURE.check(x, conv_weight, conv_state)
    tokens = x.shape[1]
    dtype = compute_dtype(x)
    padded = torch.cat([conv_state.to(dtype), x.to(dtype)], dim=1)
    weight = conv_weight.to(dtype)
    y = padded[:, :tokens] * weight[:, 0]
    for tap in range(1, weight.shape[1]):
        y = torch.addcmul(y, padded[:, tap : tap + tokens], weight[:, tap])
    new_state = padded[:, tokens:].to(conv_state.dtype, copy=True)
    return y.to(torch.promote_types(x.dtype, conv_weight.dtype)), new_state


def gated_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.gated_conv.gated_conv``."""
    convolved, new_state = causal_conv(x, conv_weight, conv_state)
    keys, values = convolved.chunk(2, dim=-1)
    return keys * values, new_state
