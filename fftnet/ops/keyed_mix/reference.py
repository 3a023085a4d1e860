"""Keyed mixing from its definition: direct sums in float64, differentiable, sharing no code with fast forms.

Memory is O(T^2): for short sequences.
"""

import torch
from torch import Tensor


def keyed_mix(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix.keyed_mix``; computed in float64 whatever comes in.

    ``Z_k(t) = sum_{j<=t} exp((s(t) - s(j)) mu_k) key_k(j) v(j) + exp(s(t) mu_k) Z_k(-1)``, with the time s
    that has passed since the state, and mu = -decay + i frequency.
    """
    time_BTH = clock.double().cumsum(dim=1)
    rate_HF = torch.complex(-decay.double(), frequency.double())
    past_TT = torch.ones(clock.shape[1], clock.shape[1], dtype=torch.bool, device=clock.device).tril()
    age_BHTT = (time_BTH[:, :, None] - time_BTH[:, None]).permute(0, 3, 1, 2).masked_fill(~past_TT, 0.0)
    kernel_BHFTT = torch.exp(age_BHTT[:, :, None] * rate_HF[..., None, None]) * past_TT
    key_BTHF = torch.complex(*key.double().unbind(dim=3))
    filter_BTHF = torch.complex(*filter_.double().unbind(dim=3))
    wide = values.double().to(torch.complex128)
    spectrum = torch.einsum("bhfts,bshf,bshd->bthfd", kernel_BHFTT, key_BTHF, wide)
    start_BHFd = torch.complex(*state.double().unbind(dim=2))
    carried_BTHF = torch.exp(time_BTH[..., None] * rate_HF)
    spectrum = spectrum + torch.einsum("bthf,bhfd->bthfd", carried_BTHF, start_BHFd)
    mixed_BTHd = torch.einsum("bthf,bthfd->bthd", filter_BTHF, spectrum).real
    last_BHFd = spectrum[:, -1]
    narrow = torch.float64 if values.dtype == torch.float64 else torch.float32
    last = torch.stack([last_BHFd.real, last_BHFd.imag], dim=2)
    return mixed_BTHd.to(values.dtype), last.to(narrow)
