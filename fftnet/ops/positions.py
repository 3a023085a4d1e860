"""Fixed positions of any length."""

import math

import torch
from torch import Tensor


def sinusoids(position: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Fixed sine and cosine positions of any length, wavelengths log-spaced from 2 pi to 20,000 pi tokens.

    Args:
        position: integer positions (B, T).
        width: D; odd widths drop the last cosine.
        dtype: of the result; computed in float32.

    Returns:
        Tensor of shape (B, T, D).
    """
    pairs = (width + 1) // 2
    rate = torch.exp(torch.arange(pairs, device=position.device) * (-math.log(10_000) / max(pairs, 1)))
    angle = position[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width].to(dtype)
