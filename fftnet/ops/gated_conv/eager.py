"""The portable backend of the gated convolution: shifted copies of the tokens, on any device."""

from torch import Tensor

from fftnet.ops.convolution import convolve


def gated_conv(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_conv.gated_conv``."""
    keys, values = convolve(x, conv_weight, conv_state).chunk(2, dim=-1)
    return keys * values
