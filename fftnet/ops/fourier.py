"""Fourier transforms over the tokens, in float32 or float64 even under autocast."""

import torch
from torch import Tensor

from fftnet.ops.numerics import compute_dtype


def _check_tokens(x: Tensor) -> None:
    if x.shape[1] == 0:
        raise ValueError("the Fourier transform needs at least one token, got a sequence of length 0")


def fourier_transform(x: Tensor, num_heads: int) -> Tensor:
    """Return the orthonormal half spectrum over tokens (B, T, D), complex (B, H, T // 2 + 1, D // H)."""
    _check_tokens(x)
    if x.shape[2] % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide the width {x.shape[2]}")
    # There are no transforms in bfloat16, and in float16 only for some lengths.
    with torch.autocast(x.device.type, enabled=False):
        spectrum_BFD = torch.fft.rfft(x.to(compute_dtype(x)), dim=1, norm="ortho")
    return spectrum_BFD.unflatten(2, (num_heads, -1)).transpose(1, 2)


def inverse_fourier_transform(spectrum: Tensor, num_tokens: int) -> Tensor:
    """Invert ``fourier_transform``; the spectrum alone does not tell odd numbers of tokens from even ones."""
    return torch.fft.irfft(spectrum.transpose(1, 2).flatten(2), n=num_tokens, dim=1, norm="ortho")


def fourier_mix(x: Tensor) -> Tensor:
    """Return the real part of the orthonormal transform over tokens and channels (FNet, arXiv 2105.03824)."""
    _check_tokens(x)
    with torch.autocast(x.device.type, enabled=False):
        return torch.fft.fft2(x.to(compute_dtype(x)), norm="ortho").real.to(x.dtype)


def count_bins(sums: Tensor, num_tokens: int) -> Tensor:
    """Double in place, along the last dimension, the inner bins of a half spectrum, and return it."""
    # All but DC and, for even T, Nyquist: each stands for two bins of the full spectrum.
    sums[..., 1 : (num_tokens + 1) // 2] *= 2
    return sums
