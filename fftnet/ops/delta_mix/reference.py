"""Delta mixing from its definition: the recurrence in float64, token by token."""

import torch
from torch import Tensor

from fftnet.ops.numerics import to_complex, to_planes


def delta_spectrum(*tensors: Tensor) -> Tensor:
    """Return the spectrum of every prefix, token by token: complex (B, T, H, F, d), differentiable.

    The arguments are those of ``fftnet.ops.delta_mix.delta_mix``, without the filter.
    """
    values, key, erase, clock, decay, frequency, state = tensors
    key_BTHF = to_complex(key, 3)
    pole_BTHF = torch.exp(clock[..., None] * torch.complex(-decay, frequency))
    z_BHFd = to_complex(state, 2)
    spectra = []
    for t in range(values.shape[1]):
        z_BHFd = pole_BTHF[:, t, ..., None] * z_BHFd
        found_BHd = (key_BTHF[:, t, ..., None].conj() * z_BHFd).real.sum(dim=2)
        new_BHd = values[:, t] - erase[:, t, :, None] * found_BHd
        z_BHFd = z_BHFd + key_BTHF[:, t, ..., None] * new_BHd[:, :, None]
        spectra.append(z_BHFd)
    return torch.stack(spectra, dim=1)


def delta_mix(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.delta_mix.delta_mix``."""
    dtype = tensors[0].dtype
    values, key, filter_, *rest = (x.double() for x in tensors)
    spectrum_BTHFd = delta_spectrum(values, key, *rest)
    mixed_BTHd = (to_complex(filter_, 3)[..., None] * spectrum_BTHFd).real.sum(dim=3)
    return mixed_BTHd.to(dtype), to_planes(spectrum_BTHFd[:, -1], 2).to(dtype)
