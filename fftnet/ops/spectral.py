"""The bidirectional spectrum: transform, filter, modReLU, inverse (arXiv 2502.18394v2, section 3)."""

from collections.abc import Callable

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


def fourier_mix(x_BTD: Tensor) -> Tensor:
    """Real part of the orthonormal Fourier transform over tokens and channels (FNet, arXiv 2105.03824).

    Args:
        x_BTD: real tokens of any floating dtype; narrow ones are transformed in float32.

    Returns:
        Tensor of the shape and dtype of ``x_BTD``.

    Raises:
        ValueError: if T is 0.
    """
    if x_BTD.shape[1] == 0:
        raise ValueError("the Fourier transform needs at least one token, got a sequence of length 0")
    with torch.autocast(x_BTD.device.type, enabled=False):
        return torch.fft.fft2(x_BTD.to(compute_dtype(x_BTD)), norm="ortho").real.to(x_BTD.dtype)


def interpolate_anchors(anchors_HK: Tensor, num_bins: int) -> Tensor:
    """Spread values held at K anchor frequencies over ``num_bins`` bins, linearly from DC to the top bin.

    K == num_bins gives the anchors themselves, which is the published layer.

    Args:
        anchors_HK: real values (..., H, K).
        num_bins: F, at least 1.

    Returns:
        Tensor of shape (..., H, F).
    """
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


def by_length(x_BTD: Tensor, mask_BT: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``mix`` to every row at its own length, so that padding and batch-mates change nothing.

    Args:
        x_BTD: padded tokens.
        mask_BT: boolean, True where there is a token; any pattern, any number a row, none included.
        mix: maps (b, n, D) to the same shape; called once for each distinct number of tokens.

    Returns:
        Tensor of the shape of ``x_BTD``, zero at padding.
    """
    mixed = torch.zeros_like(x_BTD)
    lengths_B = mask_BT.sum(dim=1)
    for length in lengths_B.unique().tolist():
        if length:
            chosen_BT = mask_BT & (lengths_B == length)[:, None]
            rows = x_BTD[chosen_BT].view(-1, length, x_BTD.shape[2])
            mixed = mixed.masked_scatter(chosen_BT[..., None], mix(rows).to(mixed.dtype))
    return mixed


def sinusoids(position_BT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Fixed sine and cosine positions of any length, wavelengths log-spaced from 2 pi to 20,000 pi tokens.

    Args:
        position_BT: integer positions.
        width: D; odd widths drop the last cosine.
        dtype: of the result; computed in float32.

    Returns:
        Tensor of shape (B, T, D).
    """
    pairs = (width + 1) // 2
    rate = torch.exp(torch.arange(pairs, device=position_BT.device) * (-9.2103404 / max(pairs, 1)))
    angle = position_BT[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width].to(dtype)
