"""The portable backend of the short convolution: shifted copies of the tokens, on any device."""

from torch import Tensor
from torch.nn.functional import silu

from fftnet.ops.convolution import convolve


def short_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.short_conv.short_conv``."""
    convolved = convolve(x, conv_weight, conv_state)
    return silu(convolved[..., :width]), convolved[..., width:]
