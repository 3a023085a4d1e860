"""The slow, obvious truth in float64: direct sums, written from the definitions and nothing else.

Every function here is differentiable by autograd and shares no code with the fast forms that are compared
with it. Memory is O(T^2): use short sequences.
"""

import math

import torch
from torch import Tensor


def modrelu(z: Tensor, bias: Tensor, floor: float) -> Tensor:
    """``relu(|z| + bias) * z / max(|z|, floor)`` on a complex tensor; the gradient at z = 0 is 0."""
    modulus = torch.where(z == 0, torch.zeros_like(z.real), z.abs())
    return torch.relu(modulus + bias) * z / torch.where(modulus < floor, floor, modulus)


def fourier_matrix(num_tokens: int) -> Tensor:
    """Orthonormal DFT matrix of the half spectrum, complex128 (T // 2 + 1, T)."""
    k = torch.arange(num_tokens // 2 + 1, dtype=torch.float64)[:, None]
    t = torch.arange(num_tokens, dtype=torch.float64)
    return torch.exp(-2j * math.pi * k * t / num_tokens) / math.sqrt(num_tokens)


def spectral_mix(x_BTHd: Tensor, filter_BHF: Tensor, bias_HF: Tensor, floor: float) -> Tensor:
    """The truth behind :func:`fftnet.ops.spectral_mix.spectral_mix`; computes in float64 whatever comes in.

    Args:
        x_BTHd: tokens split into heads.
        filter_BHF: one real gain per sample, head and bin, F = T // 2 + 1.
        bias_HF: modReLU bias.
        floor: magnitude below which modReLU stops normalising.

    Returns:
        Mixed tokens (B, T, H, d) in the dtype of ``x_BTHd``.
    """
    num_tokens = x_BTHd.shape[1]
    forward_FT = fourier_matrix(num_tokens)
    spectrum = torch.einsum("ft,bthd->bhfd", forward_FT, x_BTHd.to(torch.complex128))
    filtered = modrelu(filter_BHF.double()[..., None] * spectrum, bias_HF.double()[..., None], floor)
    twice = torch.full((forward_FT.shape[0], 1), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if num_tokens % 2 == 0:
        twice[-1] = 1.0
    mixed = torch.einsum("ft,bhfd->bthd", twice * forward_FT.conj(), filtered).real
    return mixed.to(x_BTHd.dtype)


def prefix_spectrum(v_BTHd: Tensor, decay_HF: Tensor, frequency_HF: Tensor, state_BF2Hd: Tensor) -> Tensor:
    """``Z_k(t) = lambda_k^(t+1) Z_k(-1) + sum_{j<=t} lambda_k^(t-j) v(j)``, summed term by term.

    Args:
        v_BTHd: values, float64.
        decay_HF: a >= 0 per token.
        frequency_HF: w in radians per token; lambda = exp(-a + i w).
        state_BF2Hd: real and imaginary plane of the spectrum before the first token.

    Returns:
        complex128 (B, T, H, F, d).
    """
    num_tokens = v_BTHd.shape[1]
    t = torch.arange(num_tokens, dtype=torch.float64)
    exponent_HF = torch.complex(-decay_HF, frequency_HF)
    age_TT = t[:, None] - t
    past_TT = (age_TT >= 0).double()
    kernel = torch.exp(exponent_HF[..., None, None] * age_TT.clamp(min=0)) * past_TT
    carried = torch.exp(exponent_HF[..., None] * (t + 1))
    state = torch.complex(state_BF2Hd[:, :, 0], state_BF2Hd[:, :, 1])
    spectrum = torch.einsum("hftj,bjhd->bthfd", kernel, v_BTHd.to(torch.complex128))
    return spectrum + torch.einsum("hft,bfhd->bthfd", carried, state)


def causal_mix(
    v_BTHd: Tensor,
    filter_BTHF: Tensor,
    decay_HF: Tensor,
    frequency_HF: Tensor,
    bias_HF: Tensor,
    mixing_HF2: Tensor,
    state_BF2Hd: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor]:
    """The truth behind :func:`fftnet.ops.causal_mix.causal_mix`; computes in float64 whatever comes in.

    Returns:
        Mixed values (B, T, H, d) and the final state (B, F, 2, H, d), both in the dtype of ``v_BTHd``.
    """
    dtype = v_BTHd.dtype
    spectrum = prefix_spectrum(
        v_BTHd.double(), decay_HF.double(), frequency_HF.double(), state_BF2Hd.double()
    )
    filtered = modrelu(filter_BTHF.double()[..., None] * spectrum, bias_HF.double()[..., None], floor)
    mixing_HF = torch.view_as_complex(mixing_HF2.double().contiguous())
    mixed = torch.einsum("hf,bthfd->bthd", mixing_HF, filtered).real
    last = spectrum[:, -1]
    return mixed.to(dtype), torch.stack([last.real, last.imag], dim=2).permute(0, 3, 2, 1, 4).to(dtype)
