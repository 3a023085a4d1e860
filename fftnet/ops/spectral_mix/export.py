"""Bidirectional mixing in operations that other runtimes know: what exported programs hold.

The transforms are PyTorch's own, which become their counterparts there; all else is in real numbers.
"""

import torch
from torch import Tensor


def spectral_mix(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See ``fftnet.ops.spectral_mix.spectral_mix``; for tensors of one dtype."""
    spectrum_BFD = torch.fft.rfft(x, dim=1, norm="ortho")
    planes_BFHd2 = torch.view_as_real(spectrum_BFD).unflatten(2, (filter_.shape[1], -1))
    filter_BFH1 = filter_.transpose(1, 2)[..., None]
    square = planes_BFHd2.square().sum(dim=-1)
    is_zero = square == 0
    # The square root has no gradient at 0, hence the detour.
    modulus = torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    magnitude = filter_BFH1.abs() * modulus
    gain_BFHd = filter_BFH1 * torch.relu(magnitude + bias.T[..., None]) / magnitude.clamp(min=eps)
    mixed_BFD2 = (planes_BFHd2 * gain_BFHd[..., None]).flatten(2, 3)
    return torch.fft.irfft(torch.view_as_complex(mixed_BFD2), n=x.shape[1], dim=1, norm="ortho")
