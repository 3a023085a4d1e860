"""RMSNorm from its definition, in float64."""

from torch import Tensor

from fftnet.ops.numerics import NORM_EPS


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.rms_norm.rms_norm``."""
    wide = x.double()
    power = (wide * wide).sum(dim=-1, keepdim=True) / x.shape[-1]
    return (weight.double() * wide / (power + NORM_EPS).sqrt()).to(x.dtype)
