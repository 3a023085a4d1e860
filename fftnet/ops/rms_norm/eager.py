"""The portable backend of RMSNorm: PyTorch's own, which exporters know, too."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fftnet.ops.numerics import NORM_EPS


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.rms_norm.rms_norm``."""
    # Its fused kernel takes tensors of one dtype only.
    wide = x.to(torch.promote_types(x.dtype, weight.dtype))
    return F.rms_norm(wide, weight.shape, weight.to(wide.dtype), NORM_EPS).to(x.dtype)
