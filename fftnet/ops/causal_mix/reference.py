"""Causal mixing from its definition: direct sums in float64, O(T^2) in memory, without code of fast forms."""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.numerics import to_complex, to_planes


def modrelu(z: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``relu(|z| + bias) * z / max(|z|, eps)`` on a complex tensor; the gradient at z = 0 is 0."""
    modulus = torch.where(z == 0, torch.zeros_like(z.real), z.abs())
    return torch.relu(modulus + bias) * z / torch.where(modulus < eps, eps, modulus)


def prefix_spectrum(values: Tensor, decay: Tensor, frequency: Tensor, state: Tensor) -> Tensor:
    """``Z_k(t) = lambda_k^(t+1) Z_k(-1) + sum_{j<=t} lambda_k^(t-j) v(j)``, term by term, (B, T, H, F, d)."""
    t = torch.arange(values.shape[1], dtype=torch.float64, device=values.device)
    exponent_HF = torch.complex(-decay, frequency)
    age_TT = t[:, None] - t
    # Ages of later tokens are clamped, since the exponential of a negative age could overflow.
    past_TT = (age_TT >= 0).double()
    kernel_HFTT = torch.exp(exponent_HF[..., None, None] * age_TT.clamp(min=0)) * past_TT
    carried_HFT = torch.exp(exponent_HF[..., None] * (t + 1))
    start_BFHd = to_complex(state, 2)
    spectrum = torch.einsum("hftj,bjhd->bthfd", kernel_HFTT, values.to(torch.complex128))
    return spectrum + torch.einsum("hft,bfhd->bthfd", carried_HFT, start_BFHd)


def causal_mix(*arguments: Any) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix.causal_mix``."""
    values, filter_, decay, frequency, bias, readout, state, eps = arguments
    # Steps 1, 4 and 5 of section 2 of docs/maths.md, without g.
    spectrum = prefix_spectrum(values.double(), decay.double(), frequency.double(), state.double())
    filtered = modrelu(filter_.double()[..., None] * spectrum, bias.double()[..., None], eps)
    mixed_BTHd = torch.einsum("hf,bthfd->bthd", to_complex(readout.double(), -1), filtered).real
    last = to_planes(spectrum[:, -1], 2).permute(0, 3, 2, 1, 4)
    return mixed_BTHd.to(values.dtype), last.to(values.dtype)
