"""Delta mixing from its definition: the recurrence in float64, token by token."""

import torch
from torch import Tensor

from fftnet.ops.numerics import to_complex, to_planes


def delta_mix(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.delta_mix.delta_mix``."""
    values, key, filter_, erase, clock, decay, frequency, state = (x.double() for x in tensors)
    key_BTHF = to_complex(key, 3)
    filter_BTHF = to_complex(filter_, 3)
    pole_BTHF = torch.exp(clock[..., None] * torch.complex(-decay, frequency))
    z_BHFd = to_complex(state, 2)
    mixed = []
    for t in range(values.shape[1]):
        z_BHFd = pole_BTHF[:, t, ..., None] * z_BHFd
        found_BHd = (key_BTHF[:, t, ..., None].conj() * z_BHFd).real.sum(dim=2)
        new_BHd = values[:, t] - erase[:, t, :, None] * found_BHd
        z_BHFd = z_BHFd + key_BTHF[:, t, ..., None] * new_BHd[:, :, None]
        mixed.append((filter_BTHF[:, t, ..., None] * z_BHFd).real.sum(dim=2))
    dtype = tensors[0].dtype
    return torch.stack(mixed, dim=1).to(dtype), to_planes(z_BHFd, 2).to(dtype)
