"""Rows of different lengths in one padded batch."""

from collections.abc import Callable

import torch
from torch import Tensor


def tokens_first(x: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the tokens of each row to its front, in their order, and all padding behind them.

    A causal mixer then needs no mask for its outputs: a token never reads what stands behind it.

    Args:
        x: tokens (B, T, D).
        attention_mask: boolean (B, T), False at padding; any pattern.

    Returns:
        Moved tokens (B, T, D), zero at padding; their mask (B, T); and the new place of every old position,
        int64 (B, T), for ``reorder``.
    """
    order_BT = (~attention_mask).byte().argsort(dim=1, stable=True)
    mask_BT = attention_mask.gather(1, order_BT)
    # Filled, not multiplied: padding may hold NaN, and 0 times NaN is NaN.
    moved_BTD = reorder(x, order_BT).masked_fill(~mask_BT[..., None], 0.0)
    return moved_BTD, mask_BT, order_BT.argsort(dim=1)


def reorder(x: Tensor, place: Tensor) -> Tensor:
    """Take position ``place[b, t]`` of ``x`` (B, T, D) for position t of row b."""
    return x.gather(1, place[..., None].expand_as(x))


def by_length(x: Tensor, attention_mask: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``mix`` to every row at its own length, so that padding and other rows change nothing.

    Args:
        x: padded tokens (B, T, D).
        attention_mask: boolean (B, T), True at tokens; any pattern, and rows may be all padding.
        mix: maps (b, n, D) to the same shape; called once for each distinct number of tokens.

    Returns:
        Tensor of the shape of ``x``, zero at padding.
    """
    lengths = attention_mask.sum(dim=1).tolist()
    # All tokens one after the other, row after row: taken out once and put back once, whatever the mask is.
    rows = list(x[attention_mask].split(lengths))
    for length in set(lengths) - {0}:
        places = [place for place, other in enumerate(lengths) if other == length]
        mixed = mix(torch.stack([rows[place] for place in places])).to(x.dtype)
        for place, row in zip(places, mixed, strict=True):
            rows[place] = row
    return torch.zeros_like(x).masked_scatter(attention_mask[..., None], torch.cat(rows))
