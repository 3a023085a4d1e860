"""The learned numbers of an addressed mixer that its decode step takes, beside what its projections make."""

from typing import NamedTuple

from torch import Tensor


class AddressedParameters(NamedTuple):
    """Of every channel, head and bin; floating."""

    conv_weight: Tensor
    """The convolution's filters, (C, W), the newest token's tap last."""
    base_key: Tensor
    """What every token writes with, real and imaginary plane, (H, 2, F)."""
    base_filter: Tensor
    """The paper's base filter, likewise."""
    bias: Tensor
    """modReLU's bias b, (H, F)."""
    decay: Tensor
    """a > 0 per unit of the clock, (H, F)."""
    frequency: Tensor
    """w in radians per unit of the clock, (H, F)."""
    norm_weight: Tensor
    """Of the read-out norm, (H, d)."""
