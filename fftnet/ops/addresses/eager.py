"""The portable backend of the addresses: small PyTorch operations, on any device."""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.numerics import NORM_EPS, root


def _normalized(raw_BTH2F: Tensor) -> Tensor:
    # |u|^2 of section 3, step 2: a mean over the bins of both planes' squares.
    square_BTH11 = raw_BTH2F.square().sum(dim=3, keepdim=True).mean(dim=4, keepdim=True)
    return raw_BTH2F * torch.rsqrt(square_BTH11 + NORM_EPS)


def addresses(*arguments: Any) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.addresses.addresses``."""
    raw_key, raw_filter, modulation, base_key, base_filter, bias, gain, eps = arguments
    # Step 2, then step 5, on both planes at once.
    key = gain[:, None] * (base_key + _normalized(raw_key))
    filter_ = base_filter + torch.tanh(modulation) + _normalized(raw_filter)
    # modReLU: one real factor for both planes.
    magnitude = root(filter_.square().sum(dim=3, keepdim=True))
    return key, filter_ * (torch.relu(magnitude + bias[:, None]) / magnitude.clamp(min=eps))
