"""The short convolution from its definition, in float64, differentiable."""

import torch
from torch import Tensor


def causal_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """Return ``y(t) = sum_i weight[W-1-i] x(t-i)`` of tokens (B, T, C) in float64."""
    read_BSC = torch.cat([conv_state.double(), x.double()], dim=1)
    windows_BTCW = read_BSC.unfold(1, conv_weight.shape[1], 1)
    return (windows_BTCW * conv_weight.double()).sum(dim=-1)


def short_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.short_conv.short_conv``."""
    convolved = causal_conv(x, conv_weight, conv_state)
    values = convolved[..., :width]
    values = values / (1 + torch.exp(-values))
    return values.to(x.dtype), convolved[..., width:].to(x.dtype)
