"""Rows of different lengths in one padded batch."""

from collections.abc import Callable

import torch
from torch import Tensor


def tokens_first(x: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the tokens of each row to its front, in their order, and all padding behind them.

    A causal mixer then needs no mask for its outputs: a token never reads what stands behind it. Return the
    moved tokens, zero at padding; their mask; and the new place of every old position, for ``reorder``.
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

    It maps (b, n, D) to the same shape, once for each distinct number of tokens. The result (B, T, D) is zero
    at padding, which may have any pattern and fill whole rows.
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
