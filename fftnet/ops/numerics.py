"""Arithmetic that several operators share: the dtype they compute in, modReLU, interpolation of anchors."""

import torch
from torch import Tensor
from torch.nn import functional as F

PAPER_EPS = 1e-3
"""The magnitude below which the published modReLU stops normalising."""
NORM_EPS = 1e-6
"""Added to a mean square before it divides, so that numbers which are all 0 stay 0."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """The real dtype a transform of ``x`` runs in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def for_products(x: Tensor) -> Tensor:
    """``x`` in the dtype that autocast gives matrix products: cast once, where several layers read it.

    Autocast keeps the weights that it has cast, but casts tokens again for every layer, there and back.
    """
    device = x.device.type
    if x.dtype != torch.float32 or device == "meta" or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def interpolate_anchors(anchors: Tensor, num_bins: int) -> Tensor:
    """Spread values held at K anchor frequencies over ``num_bins`` bins, linearly from DC to the top bin.

    K == num_bins gives the anchors themselves, which is the published layer.

    Args:
        anchors: real values (..., H, K).
        num_bins: F, at least 1.

    Returns:
        Tensor of shape (..., H, F).
    """
    rows = anchors.reshape(1, -1, anchors.shape[-1])
    spread = F.interpolate(rows, size=num_bins, mode="linear", align_corners=True)
    return spread.view(*anchors.shape[:-1], num_bins)


def modrelu(z: Tensor, bias: Tensor, eps: float = PAPER_EPS) -> Tensor:
    """``relu(|z| + bias) * z / max(|z|, eps)``: shrinks or grows the magnitude, keeps the phase.

    The gradient is finite at z = 0. With bias = 0 the function is the identity wherever |z| >= eps.

    Args:
        z: complex tensor.
        bias: real tensor that broadcasts against ``z``.
        eps: magnitude below which the division stops normalising.

    Returns:
        Complex tensor of the shape of ``z``.
    """
    square = z.real.square() + z.imag.square()
    is_zero = square == 0
    magnitude = torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    return z * (torch.relu(magnitude + bias) / magnitude.clamp(min=eps))
