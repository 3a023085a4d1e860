"""The addresses from their definition, in complex128."""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.numerics import NORM_EPS, to_complex, to_planes
from fftnet.ops.spectral_mix.reference import modrelu


def _complex(planes: Tensor) -> Tensor:
    return to_complex(planes.double(), -2)


def _normalized(z: Tensor) -> Tensor:
    power = (z * z.conj()).real.mean(dim=-1, keepdim=True)
    return z / (power + NORM_EPS).sqrt()


def addresses(*arguments: Any) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.addresses.addresses``."""
    raw_key, raw_filter, modulation, base_key, base_filter, bias, gain, eps = arguments
    # Step 2 of section 3 of docs/maths.md, then step 5.
    key = gain.double() * (_complex(base_key) + _normalized(_complex(raw_key)))
    modulated = _complex(base_filter) + _complex(torch.tanh(modulation.double()))
    filter_ = modrelu(modulated + _normalized(_complex(raw_filter)), bias.double(), eps)
    return to_planes(key, -2).to(raw_key.dtype), to_planes(filter_, -2).to(raw_key.dtype)
