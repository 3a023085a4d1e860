"""The short convolution from its definition, in float64, differentiable."""

import torch
from torch import Tensor

from fftnet.ops.gated_conv.reference import causal_conv


def short_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.short_conv.short_conv``."""
    convolved = causal_conv(x, conv_weight, conv_state)
    values = convolved[..., :width]
    values = values / (1 + torch.exp(-values))
    return values.to(x.dtype), convolved[..., width:].to(x.dtype)
