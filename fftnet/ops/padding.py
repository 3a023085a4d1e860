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
    lengths = attention_mask.sum(dim=1).tolist()
    # All tokens behind each other, row after row: taken out once and put back once, whatever the rows are.
    rows = list(x[attention_mask].split(lengths))
    for length in set(lengths) - {0}:
        places = [place for place, other in enumerate(lengths) if other == length]
        mixed = mix(torch.stack([rows[place] for place in places])).to(x.dtype)
        for place, row in zip(places, mixed, strict=True):
            rows[place] = row
    return torch.zeros_like(x).masked_scatter(attention_mask[..., None], torch.cat(rows))
