"""The short convolution from its definition: token by token and tap by tap, in float64."""

import torch
from torch import Tensor


def short_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.short_conv.short_conv``."""
    taps = conv_weight.shape[1]
    read = torch.cat([conv_state.double(), x.double()], dim=1)
    tokens = []
    for t in range(x.shape[1]):
        tokens.append(sum(conv_weight[:, i].double() * read[:, t + i] for i in range(taps)))
    convolved = torch.stack(tokens, dim=1)
    values = convolved[..., :width]
    values = values / (1 + torch.exp(-values))
    new_state = read[:, x.shape[1] :].to(conv_state.dtype)
    return values.to(x.dtype), convolved[..., width:].to(x.dtype), new_state
