"""The learned numbers of every head and bin that causal mixing takes."""

from typing import NamedTuple

from torch import Tensor


class HeadParameters(NamedTuple):
    """One number, or one complex number, for each of H heads and F bins; floating, all of one shape."""

    decay: Tensor
    """a >= 0 per token, (H, F)."""
    frequency: Tensor
    """w in radians per token, (H, F); the pole is ``lambda = exp(-a + i w)``."""
    bias: Tensor
    """modReLU's bias b, (H, F)."""
    readout: Tensor
    """Real and imaginary part of the read-out weight C, (H, F, 2)."""
