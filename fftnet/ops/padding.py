"""Rows of different lengths in one padded batch."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_length(x: Tensor, attention_mask: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``mix`` to every row at its own length, so that padding and batch-mates change nothing.

    Args:
        x: padded tokens (B, T, D).
        attention_mask: boolean (B, T), True where there is a token; any pattern, any number a row, none
            included.
        mix: maps (b, n, D) to the same shape; called once for each distinct number of tokens.

    Returns:
        Tensor of the shape of ``x``, zero at padding.
    """
    mixed = torch.zeros_like(x)
    lengths_B = attention_mask.sum(dim=1)
    for length in lengths_B.unique().tolist():
        if length:
            chosen_BT = attention_mask & (lengths_B == length)[:, None]
            rows = x[chosen_BT].view(-1, length, x.shape[2])
            mixed = mixed.masked_scatter(chosen_BT[..., None], mix(rows).to(mixed.dtype))
    return mixed
