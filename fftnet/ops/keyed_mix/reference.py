"""Keyed mixing from its definition: direct sums in float64, O(T^2) in memory, without code of fast forms."""

import torch
from torch import Tensor

from fftnet.ops.numerics import to_complex, to_planes


def keyed_mix(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix.keyed_mix``.

    ``Z_k(t) = sum_{j<=t} exp((s(t) - s(j)) mu_k) key_k(j) v(j) + exp(s(t) mu_k) Z_k(-1)``, with the time s
    that has passed since the state, and mu = -decay + i frequency.
    """
    values, key, filter_, clock, decay, frequency, state = tensors
    time_BTH = clock.double().cumsum(dim=1)
    rate_HF = torch.complex(-decay.double(), frequency.double())
    past_TT = torch.ones(clock.shape[1], clock.shape[1], dtype=torch.bool, device=clock.device).tril()
    # Ages of later tokens are negative, and their exponential would overflow: they count as 0 here.
    age_BHTT = (time_BTH[:, :, None] - time_BTH[:, None]).permute(0, 3, 1, 2).masked_fill(~past_TT, 0.0)
    kernel_BHFTT = torch.exp(age_BHTT[:, :, None] * rate_HF[..., None, None]) * past_TT
    key_BTHF = to_complex(key.double(), 3)
    filter_BTHF = to_complex(filter_.double(), 3)
    wide = values.to(torch.complex128)
    spectrum = torch.einsum("bhfts,bshf,bshd->bthfd", kernel_BHFTT, key_BTHF, wide)
    carried_BTHF = torch.exp(time_BTH[..., None] * rate_HF)
    spectrum = spectrum + torch.einsum("bthf,bhfd->bthfd", carried_BTHF, to_complex(state.double(), 2))
    # Step 6 of section 3 of docs/maths.md.
    mixed_BTHd = torch.einsum("bthf,bthfd->bthd", filter_BTHF, spectrum).real
    return mixed_BTHd.to(values.dtype), to_planes(spectrum[:, -1], 2).to(values.dtype)
