"""The portable backend of norm and gate: small PyTorch operations, on any device."""

import torch
from torch import Tensor

NORM_EPS = 1e-6
"""Added to the mean square, so that a head that reads nothing stays 0."""


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_norm.gated_norm``."""
    normed = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + NORM_EPS)
    return (normed * weight * torch.sigmoid(gate)).to(x.dtype)
