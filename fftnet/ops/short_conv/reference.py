"""The short convolution from its definition, in float64, differentiable."""

import torch
from torch import Tensor


def short_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.short_conv.short_conv``."""
    # y(t) = sum_i weight[W-1-i] x(t-i): every window times the filter.
    read_BSC = torch.cat([conv_state.double(), x.double()], dim=1)
    windows_BTCW = read_BSC.unfold(1, conv_weight.shape[1], 1)
    convolved = (windows_BTCW * conv_weight.double()).sum(dim=-1)
    values = convolved[..., :width]
    values = values / (1 + torch.exp(-values))
    return values.to(x.dtype), convolved[..., width:].to(x.dtype)
