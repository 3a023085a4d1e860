"""Arithmetic that several operators share: dtypes, complex planes, modReLU, interpolation of anchors."""

import torch
from torch import Tensor
from torch.nn import functional as F

PAPER_EPS = 1e-3  # Magnitude below which the published modReLU stops normalising.
NORM_EPS = 1e-6  # Added to a mean square before dividing by its root, so that a row of zeros stays zero.


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the real dtype to compute in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def for_products(x: Tensor) -> Tensor:
    """Cast ``x`` to the dtype that autocast gives matrix products, for tokens that several layers read.

    Autocast keeps the weights that it has cast, but casts tokens again for every layer, there and back.
    """
    device = x.device.type
    if x.dtype != torch.float32 or device == "meta" or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def to_complex(planes: Tensor, dim: int) -> Tensor:
    """Join the real and the imaginary plane along ``dim``, which is removed."""
    return torch.complex(*planes.unbind(dim))


def to_planes(z: Tensor, dim: int) -> Tensor:
    """Split a complex tensor into its real and imaginary plane, along a new dimension ``dim``."""
    return torch.stack([z.real, z.imag], dim)


def root(square: Tensor) -> Tensor:
    """Return the square root, with a gradient of 0 at 0, where that of ``sqrt`` is infinite."""
    # The root is taken of 1 where the square is 0: masking the result alone would leave a gradient of NaN.
    is_zero = square == 0
    return torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)


def modrelu(z: Tensor, bias: Tensor, eps: float = PAPER_EPS) -> Tensor:
    """``relu(|z| + bias) * z / max(|z|, eps)``: shrinks or grows the magnitude, keeps the phase.

    The gradient is finite at z = 0. With bias = 0 the function is the identity wherever |z| >= eps.
    """
    magnitude = root(z.real.square() + z.imag.square())
    return z * (torch.relu(magnitude + bias) / magnitude.clamp(min=eps))


def interpolate_anchors(anchors: Tensor, num_bins: int) -> Tensor:
    """Spread anchors (..., H, K) linearly over ``num_bins`` bins (..., H, F), from DC to the top bin."""
    # With align_corners the first anchor is DC and the last one the highest bin.
    rows = anchors.reshape(1, -1, anchors.shape[-1])
    spread = F.interpolate(rows, size=num_bins, mode="linear", align_corners=True)
    return spread.view(*anchors.shape[:-1], num_bins)
