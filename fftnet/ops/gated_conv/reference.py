"""The gated convolution from its definition: every window times the filter, in float64, differentiable."""

import torch
from torch import Tensor


def causal_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """Return ``y(t) = sum_i weight[W-1-i] x(t-i)`` of tokens (B, T, C) in float64."""
    read_BSC = torch.cat([conv_state.double(), x.double()], dim=1)
    windows_BTCW = read_BSC.unfold(1, conv_weight.shape[1], 1)
    return (windows_BTCW * conv_weight.double()).sum(dim=-1)


def gated_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_conv.gated_conv``."""
    keys_BTD, values_BTD = causal_conv(x, conv_weight, conv_state).chunk(2, dim=-1)
    return (keys_BTD * values_BTD).to(x.dtype)
