"""The addresses from their definition, in complex128."""

import torch
from torch import Tensor

from fftnet.ops.causal_mix.reference import modrelu
from fftnet.ops.numerics import NORM_EPS


def _complex(planes: Tensor) -> Tensor:
    return torch.complex(*planes.double().unbind(dim=-2))


def _planes(z: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.stack([z.real, z.imag], dim=-2).to(dtype)


def _normalised(z: Tensor) -> Tensor:
    power = (z * z.conj()).real.mean(dim=-1, keepdim=True)
    return z / (power + NORM_EPS).sqrt()


def addresses(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.addresses.addresses``."""
    key = gain.double() * (_complex(base_key) + _normalised(_complex(raw_key)))
    modulated = _complex(base_filter) + _complex(torch.tanh(modulation.double()))
    filter_ = modrelu(modulated + _normalised(_complex(raw_filter)), bias.double(), eps)
    return _planes(key, raw_key.dtype), _planes(filter_, raw_key.dtype)
