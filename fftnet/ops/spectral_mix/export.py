"""Bidirectional mixing in operations that other runtimes know: what exported programs hold.

The transforms are PyTorch's own, which become their counterparts there; all else is in real numbers. Their
number of tokens must be known: of an open one torch.export can't prove that it fits the half spectrum, and
keeps the registered operator.
"""

import torch
from torch import Tensor


def spectral_mix(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See ``fftnet.ops.spectral_mix.spectral_mix``; for tensors of one dtype."""
    spectrum_BDF = torch.fft.rfft(x.transpose(1, 2), norm="ortho")
    planes_BHdF2 = torch.view_as_real(spectrum_BDF.contiguous()).unflatten(1, (filter_.shape[1], -1))
    filter_BH1F = filter_[:, :, None]
    square = planes_BHdF2.square().sum(dim=-1)
    is_zero = square == 0
    # The square root has no gradient at 0, hence the detour.
    modulus = torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    magnitude = filter_BH1F.abs() * modulus
    gain_BHdF = filter_BH1F * torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=eps)
    mixed_BDF2 = (planes_BHdF2 * gain_BHdF[..., None]).flatten(1, 2)
    mixed_BDT = torch.fft.irfft(torch.view_as_complex(mixed_BDF2), n=x.shape[1], norm="ortho")
    return mixed_BDT.transpose(1, 2)
