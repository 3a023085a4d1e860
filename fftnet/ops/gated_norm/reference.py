"""Norm and gate from their definition, in float64."""

import torch
from torch import Tensor

from fftnet.ops.numerics import NORM_EPS


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_norm.gated_norm``."""
    wide = x.double()
    power = (wide * wide).sum(dim=-1, keepdim=True) / x.shape[-1]
    opened = 1 / (1 + torch.exp(-gate.double()))
    return (weight.double() * wide / (power + NORM_EPS).sqrt() * opened).to(x.dtype)
