"""The portable backend of bidirectional mixing: plain PyTorch on real and imaginary parts, on any device."""

import torch
from torch import Tensor

from fftnet.ops.spectral_mix import count_bins


def _transform(x_BTD: Tensor) -> Tensor:
    spectrum_BDF = torch.fft.rfft(x_BTD.transpose(1, 2), norm="ortho")
    return torch.view_as_real(spectrum_BDF.contiguous())


def _inverse(spectrum_BDF2: Tensor, num_tokens: int) -> Tensor:
    x_BDT = torch.fft.irfft(torch.view_as_complex(spectrum_BDF2), n=num_tokens, norm="ortho")
    return x_BDT.transpose(1, 2).contiguous()


def _modulus(spectrum_BHdF2: Tensor) -> Tensor:
    real, imaginary = spectrum_BHdF2.unbind(-1)
    return (real.square() + imaginary.square()).sqrt()


def forward(x: Tensor, filter_: Tensor, bias: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """See :mod:`fftnet.ops.spectral_mix` for the contract of a backend."""
    spectrum = _transform(x)
    heads, filter_BH1F = spectrum.unflatten(1, (filter_.shape[1], -1)), filter_[:, :, None]
    magnitude = _modulus(heads) * filter_BH1F.abs()
    gain = filter_BH1F * torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=floor)
    return _inverse((heads * gain[..., None]).flatten(1, 2), x.shape[1]), spectrum


def backward(
    grad_y: Tensor, spectrum: Tensor, filter_: Tensor, bias: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See :mod:`fftnet.ops.spectral_mix` for the contract of a backend."""
    split = (filter_.shape[1], -1)
    grad, heads = _transform(grad_y).unflatten(1, split), spectrum.unflatten(1, split)
    filter_BH1F, modulus = filter_[:, :, None], _modulus(heads)
    magnitude = modulus * filter_BH1F.abs()
    raised = torch.relu(magnitude + bias[:, None])
    clamped = magnitude.clamp(min=floor)
    gain, slope = raised / clamped, (raised > 0) / clamped
    dot = (grad * heads).sum(dim=-1)
    bend = slope * magnitude - gain * (magnitude >= floor)
    grad_filter = ((gain + bend) * dot).sum(dim=2)
    grad_bias = (filter_BH1F * slope * dot).sum(dim=(0, 2))

    radial = (bend * dot / modulus / modulus).masked_fill(modulus == 0, 0.0)
    grad_x = filter_BH1F[..., None] * (gain[..., None] * grad + radial[..., None] * heads)
    tokens = grad_y.shape[1]
    return (
        _inverse(grad_x.flatten(1, 2), tokens),
        count_bins(grad_filter, tokens),
        count_bins(grad_bias, tokens),
    )
