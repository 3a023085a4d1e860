"""The bidirectional spectrum: transform, filter, modReLU, inverse (arXiv 2502.18394v2, section 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

PAPER_FLOOR = 1e-3
"""The magnitude below which the published modReLU stops normalising."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """The real dtype a transform of ``x`` runs in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def fourier_transform(x_BTD: Tensor, num_heads: int) -> Tensor:
    """Orthonormal half spectrum over the tokens, one for each channel.

    Args:
        x_BTD: real tokens of any floating dtype; narrow ones are transformed in float32.
        num_heads: H, which must divide D.

    Returns:
        Complex spectrum of shape (B, H, T // 2 + 1, D // H).

    Raises:
        ValueError: if T is 0 or H does not divide D.
    """
    batch, tokens, width = x_BTD.shape
    if tokens == 0:
        raise ValueError("the Fourier transform needs at least one token, got a sequence of length 0")
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide the width {width}")
    with torch.autocast(x_BTD.device.type, enabled=False):
        spectrum_BFD = torch.fft.rfft(x_BTD.to(compute_dtype(x_BTD)), dim=1, norm="ortho")
    return spectrum_BFD.view(batch, tokens // 2 + 1, num_heads, width // num_heads).transpose(1, 2)


def inverse_fourier_transform(spectrum_BHFd: Tensor, num_tokens: int) -> Tensor:
    """Inverse of :func:`fourier_transform`.

    Args:
        spectrum_BHFd: complex half spectrum with F = num_tokens // 2 + 1.
        num_tokens: T; the spectrum alone does not tell odd from even.

    Returns:
        Real tokens of shape (B, T, H * d) in the spectrum's precision.
    """
    spectrum_BFD = spectrum_BHFd.transpose(1, 2).flatten(2)
    return torch.fft.irfft(spectrum_BFD, n=num_tokens, dim=1, norm="ortho")


def interpolate_anchors(anchors_HK: Tensor, num_bins: int) -> Tensor:
    """Spread values held at K anchor frequencies over ``num_bins`` bins, linearly from DC to the top bin.

    K == num_bins returns the anchors themselves, which is the published layer.

    Args:
        anchors_HK: real values (..., H, K).
        num_bins: F, at least 1.

    Returns:
        Tensor of shape (..., H, F).
    """
    if anchors_HK.shape[-1] == num_bins:
        return anchors_HK
    rows = anchors_HK.reshape(1, -1, anchors_HK.shape[-1])
    spread = F.interpolate(rows, size=num_bins, mode="linear", align_corners=True)
    return spread.view(*anchors_HK.shape[:-1], num_bins)


def modrelu(z: Tensor, bias: Tensor, floor: float = PAPER_FLOOR) -> Tensor:
    """``relu(|z| + bias) * z / max(|z|, floor)``: shrinks or grows the magnitude, keeps the phase.

    The gradient is finite at z = 0. With bias = 0 the function is the identity wherever |z| >= floor.

    Args:
        z: complex tensor.
        bias: real tensor that broadcasts against ``z``.
        floor: magnitude below which the division stops normalising.

    Returns:
        Complex tensor of the shape of ``z``.
    """
    square = z.real.square() + z.imag.square()
    is_zero = square == 0
    magnitude = torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    return z * (torch.relu(magnitude + bias) / magnitude.clamp(min=floor))


def filter_spectrum(
    spectrum_BHFd: Tensor, filter_BHF: Tensor, bias_HF: Tensor, floor: float = PAPER_FLOOR
) -> Tensor:
    """Steps 4-6 of the layer: multiply by the adaptive filter, then modReLU.

    Args:
        spectrum_BHFd: complex half spectrum.
        filter_BHF: one real gain per sample, head and bin.
        bias_HF: modReLU bias per head and bin.
        floor: see :func:`modrelu`.

    Returns:
        Complex filtered spectrum (B, H, F, d).
    """
    return modrelu(spectrum_BHFd * filter_BHF[..., None], bias_HF[..., None], floor)
