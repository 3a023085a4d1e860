"""From the hidden states of all tokens to the one vector that a classifier reads."""

import torch
from torch import Tensor

CLASS_TOKEN = "class_token"
LAST = "last"
MEAN = "mean"


def pooled(hidden: Tensor, pooling: str, attention_mask: Tensor | None = None) -> Tensor:
    """What is classified, of every row.

    Args:
        hidden: (B, T, D), T >= 1.
        pooling: class_token, the first token; last, the last one that is read; mean, of those that are read.
        attention_mask: boolean (B, T or more, of which the last T count), False at padding. Of a row of
            nothing but padding the mean is 0, and its last token is the first.

    Returns:
        (B, D), in which padding has no part.

    Raises:
        ValueError: if there is no such pooling.
    """
    if pooling == CLASS_TOKEN:
        return hidden[:, 0]
    if pooling not in (LAST, MEAN):
        raise ValueError(f"unknown pooling {pooling!r}; choose from {CLASS_TOKEN}, {LAST}, {MEAN}")
    if attention_mask is None:
        return hidden[:, -1] if pooling == LAST else hidden.mean(dim=1)
    mask_BT = attention_mask[:, -hidden.shape[1] :].to(hidden.device).bool()
    if pooling == LAST:
        place_T = torch.arange(hidden.shape[1], device=hidden.device)
        last_B = (place_T * mask_BT).argmax(dim=1)
        return hidden[torch.arange(len(last_B), device=hidden.device), last_B]
    # Of a masked sum, 0 times what is not finite would not be 0.
    sum_BD = hidden.masked_fill(~mask_BT[..., None], 0).sum(dim=1)
    return sum_BD / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
