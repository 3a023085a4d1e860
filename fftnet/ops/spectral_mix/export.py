"""Bidirectional mixing in real numbers around PyTorch's transforms, which other runtimes know, too."""

import torch
from torch import Tensor

from fftnet.ops.numerics import root
from fftnet.ops.spectral_mix.eager import inverse, transform


def spectral_mix(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See ``fftnet.ops.spectral_mix.spectral_mix``."""
    # Step 1 of section 1 of docs/maths.md; channels before bins, as the heads divide the channels.
    planes_BHdF2 = transform(x).unflatten(1, (filter_.shape[1], -1))
    # Steps 5 and 6: |Z| is |W| |X|, and Z keeps the phase of X up to the sign of W.
    filter_BH1F = filter_[:, :, None]
    magnitude = filter_BH1F.abs() * root(planes_BHdF2.square().sum(dim=-1))
    gain_BHdF = filter_BH1F * torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=eps)
    # Step 7.
    return inverse((planes_BHdF2 * gain_BHdF[..., None]).flatten(1, 2), x.shape[1])
