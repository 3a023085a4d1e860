"""The portable backend of the addresses: small PyTorch operations, on any device."""

import torch
from torch import Tensor

from fftnet.ops.numerics import NORM_EPS


def _normalised(raw_BTH2F: Tensor) -> Tensor:
    square_BTH11 = raw_BTH2F.square().sum(dim=3, keepdim=True).mean(dim=4, keepdim=True)
    return raw_BTH2F * torch.rsqrt(square_BTH11 + NORM_EPS)


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
    key = gain[:, None] * (base_key + _normalised(raw_key))
    filter_ = base_filter + torch.tanh(modulation) + _normalised(raw_filter)
    square = filter_.square().sum(dim=3, keepdim=True)
    is_zero = square == 0
    # The square root has no gradient at 0, hence the detour.
    magnitude = torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    filter_ = filter_ * (torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=eps))
    return key.to(raw_key.dtype), filter_.to(raw_key.dtype)
