"""Norm and gate from their definition, in float64."""

import torch
from torch import Tensor

from fftnet.ops.rms_norm.reference import rms_norm


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_norm.gated_norm``."""
    opened = 1 / (1 + torch.exp(-gate.double()))
    return (rms_norm(x.double(), weight) * opened).to(x.dtype)
