"""The portable backend of norm and gate: small PyTorch operations, on any device."""

import torch
from torch import Tensor

from fftnet.ops.numerics import NORM_EPS


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_norm.gated_norm``."""
    normed = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + NORM_EPS)
    return normed * weight * torch.sigmoid(gate)
