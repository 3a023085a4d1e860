"""The gated convolution from its definition: every window times the filter, in float64, differentiable."""

import torch
from torch import Tensor


def gated_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.gated_conv.gated_conv``; computed in float64 whatever comes in."""
    read_BSC = torch.cat([conv_state.double(), x.double()], dim=1)
    windows_BTCW = read_BSC.unfold(1, conv_weight.shape[1], 1)
    convolved_BTC = (windows_BTCW * conv_weight.double()).sum(dim=-1)
    width = x.shape[2] // 2
    values_BTD = convolved_BTC[..., :width] * convolved_BTC[..., width:]
    dtype = torch.promote_types(x.dtype, conv_weight.dtype)
    # A copy, since the state must not share memory with the tokens.
    return values_BTD.to(dtype), read_BSC[:, x.shape[1] :].to(conv_state.dtype, copy=True)
