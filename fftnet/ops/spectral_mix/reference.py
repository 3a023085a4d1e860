"""Bidirectional mixing from its definition: matrices in float64, O(T^2) in memory, no fast transform."""

import math

import torch
from torch import Tensor


def modrelu(z: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``relu(|z| + bias) * z / max(|z|, eps)`` on a complex tensor; the gradient at z = 0 is 0."""
    modulus = torch.where(z == 0, torch.zeros_like(z.real), z.abs())
    return torch.relu(modulus + bias) * z / torch.where(modulus < eps, eps, modulus)


def fourier_matrix(num_tokens: int, device: torch.device) -> Tensor:
    """Orthonormal DFT matrix of the half spectrum, complex128 (T // 2 + 1, T)."""
    k = torch.arange(num_tokens // 2 + 1, dtype=torch.float64, device=device)[:, None]
    t = torch.arange(num_tokens, dtype=torch.float64, device=device)
    return torch.exp(-2j * math.pi * k * t / num_tokens) / math.sqrt(num_tokens)


def spectral_mix(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See ``fftnet.ops.spectral_mix.spectral_mix``."""
    num_tokens = x.shape[1]
    x_BTHd = x.to(torch.complex128).unflatten(-1, (filter_.shape[1], -1))
    # Steps 1, 5, 6 and 7 of section 1 of docs/maths.md.
    forward_FT = fourier_matrix(num_tokens, x.device)
    spectrum_BHFd = torch.einsum("ft,bthd->bhfd", forward_FT, x_BTHd)
    filtered_BHFd = modrelu(filter_.double()[..., None] * spectrum_BHFd, bias.double()[..., None], eps)
    # Every bin but DC and, for even T, Nyquist stands for two of the whole spectrum.
    twice_F1 = torch.full((forward_FT.shape[0], 1), 2.0, dtype=torch.float64, device=x.device)
    twice_F1[0] = 1.0
    if num_tokens % 2 == 0:
        twice_F1[-1] = 1.0
    mixed_BTHd = torch.einsum("ft,bhfd->bthd", twice_F1 * forward_FT.conj(), filtered_BHFd).real
    return mixed_BTHd.flatten(2).to(x.dtype)
