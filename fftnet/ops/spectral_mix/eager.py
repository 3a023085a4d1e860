"""The portable backend of bidirectional mixing: plain PyTorch on real and imaginary parts, on any device."""

import torch
from torch import Tensor

from fftnet.ops.fourier import count_bins


def transform(x_BTD: Tensor) -> Tensor:
    """Return the half spectrum over the tokens, (B, D, F, 2)."""
    spectrum_BDF = torch.fft.rfft(x_BTD.transpose(1, 2), norm="ortho")
    return torch.view_as_real(spectrum_BDF.contiguous())


def inverse(spectrum_BDF2: Tensor, num_tokens: int) -> Tensor:
    """Return the tokens (B, T, D) of a half spectrum."""
    x_BDT = torch.fft.irfft(torch.view_as_complex(spectrum_BDF2), n=num_tokens, norm="ortho")
    return x_BDT.transpose(1, 2)


def _modulus(spectrum_BHdF2: Tensor) -> Tensor:
    real, imaginary = spectrum_BHdF2.unbind(-1)
    return (real.square() + imaginary.square()).sqrt()


def forward(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.spectral_mix`` and ``fftnet.ops.registration``."""
    spectrum = transform(x)
    heads_BHdF2 = spectrum.unflatten(1, (filter_.shape[1], -1))
    # Steps 5 and 6 of section 1 of docs/maths.md, |Z| = |W| |X|: one real gain for both planes.
    filter_BH1F = filter_[:, :, None]
    magnitude = _modulus(heads_BHdF2) * filter_BH1F.abs()
    gain = filter_BH1F * torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=eps)
    return inverse((heads_BHdF2 * gain[..., None]).flatten(1, 2), x.shape[1]), spectrum


def backward(
    filter_: Tensor, bias: Tensor, spectrum: Tensor, grad_mixed: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.spectral_mix`` and ``fftnet.ops.registration``."""
    split = (filter_.shape[1], -1)
    grad_BHdF2 = transform(grad_mixed).unflatten(1, split)
    heads_BHdF2 = spectrum.unflatten(1, split)
    filter_BH1F = filter_[:, :, None]
    modulus = _modulus(heads_BHdF2)
    magnitude = modulus * filter_BH1F.abs()
    raised = torch.relu(magnitude + bias[:, None])
    clamped = magnitude.clamp(min=eps)
    gain = raised / clamped
    slope = (raised > 0) / clamped
    # d gain / d magnitude, times the magnitude; below eps the denominator is constant.
    radial = slope * magnitude - gain * (magnitude >= eps)
    # Re(conj(grad) X): filter and bias are real, so only this projection of the gradient reaches them.
    dot = (grad_BHdF2 * heads_BHdF2).sum(dim=-1)
    grad_filter = ((gain + radial) * dot).sum(dim=2)
    grad_bias = (filter_BH1F * slope * dot).sum(dim=(0, 2))

    # X itself: scaled by the gain, plus the change of the gain along its own direction.
    along = (radial * dot / modulus / modulus).masked_fill(modulus == 0, 0.0)
    grad_x = filter_BH1F[..., None] * (gain[..., None] * grad_BHdF2 + along[..., None] * heads_BHdF2)
    tokens = grad_mixed.shape[1]
    grad_x = inverse(grad_x.flatten(1, 2), tokens)
    return grad_x, count_bins(grad_filter, tokens), count_bins(grad_bias, tokens)
