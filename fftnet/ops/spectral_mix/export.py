"""Bidirectional mixing in operations that other runtimes know, for exported programs.

The transforms are PyTorch's own, which become their counterparts there; all else is in real numbers.
"""

import torch
from torch import Tensor

from fftnet.ops.numerics import root


def spectral_mix(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See ``fftnet.ops.spectral_mix.spectral_mix``."""
    # Step 1 of section 1 of docs/maths.md; channels before bins, as the heads divide the channels.
    spectrum_BDF = torch.fft.rfft(x.transpose(1, 2), norm="ortho")
    planes_BHdF2 = torch.view_as_real(spectrum_BDF.contiguous()).unflatten(1, (filter_.shape[1], -1))
    # Steps 5 and 6: |Z| is |W| |X|, and Z keeps the phase of X up to the sign of W.
    filter_BH1F = filter_[:, :, None]
    magnitude = filter_BH1F.abs() * root(planes_BHdF2.square().sum(dim=-1))
    gain_BHdF = filter_BH1F * torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=eps)
    # Step 7.
    mixed_BDF2 = (planes_BHdF2 * gain_BHdF[..., None]).flatten(1, 2)
    mixed_BDT = torch.fft.irfft(torch.view_as_complex(mixed_BDF2), n=x.shape[1], norm="ortho")
    return mixed_BDT.transpose(1, 2)
