"""Parts that all classifiers share: fields of their configurations, class names and pooling."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fftnet.fields import MAX_SIZE, check_range, string_list

CLASS_TOKEN = "class_token"
LAST = "last"
MEAN = "mean"
CLASS_FIELDS = ("num_classes", "class_names")
"""Fields of a configuration that ``config.json`` stores as ``id2label`` and ``label2id``."""


def check_classifier(config: Any, poolings: Sequence[str]) -> None:
    """Check the fields ``num_classes``, ``class_names`` and ``pooling``, and fill in missing class names."""
    check_range(config, 1, MAX_SIZE, "num_classes")
    names = check_class_names(config.class_names, config.num_classes)
    object.__setattr__(config, "class_names", names)
    if config.pooling not in poolings:
        raise ValueError(f"unknown pooling {config.pooling!r}; choose from {', '.join(poolings)}")


def check_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return ``num_classes`` different names; if none are given, LABEL_0, LABEL_1, ... as in Transformers."""
    names = string_list("class_names", names)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise ValueError("class_names holds a lone surrogate, which cannot be printed: remove it") from error
    if not names:
        return tuple(f"LABEL_{index}" for index in range(num_classes))
    if len(names) != num_classes:
        raise ValueError(f"class_names has {len(names)} names for num_classes={num_classes}")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"class_names has {twice!r} more than once")
    return tuple(names)


def pooled(hidden: Tensor, pooling: str, attention_mask: Tensor | None = None) -> Tensor:
    """Reduce the hidden states (B, T, D) of each row to the vector (B, D) that is classified.

    Args:
        hidden: (B, T, D), T >= 1.
        pooling: class_token (the first token), last (the last token), or mean (of all tokens).
        attention_mask: boolean (B, T or more, of which the last T count), False at padding, which last and
            mean leave out. For a row of padding only, the mean is 0 and the last token is the first.
    """
    if pooling == CLASS_TOKEN:
        return hidden[:, 0]
    if pooling not in (LAST, MEAN):
        raise ValueError(f"unknown pooling {pooling!r}; choose from {CLASS_TOKEN}, {LAST}, {MEAN}")
    if attention_mask is None:
        return hidden[:, -1] if pooling == LAST else hidden.mean(dim=1)
    mask_BT = attention_mask[:, -hidden.shape[1] :].to(hidden.device).bool()
    if pooling == LAST:
        position_T = torch.arange(hidden.shape[1], device=hidden.device)
        # argmax finds the largest position that is not masked; a row without tokens gives 0.
        last_B = (position_T * mask_BT).argmax(dim=1)
        return hidden[torch.arange(len(last_B), device=hidden.device), last_B]
    # Padding is filled with 0 instead of multiplied by 0: it may hold NaN, and 0 * NaN is NaN.
    sum_BD = hidden.masked_fill(~mask_BT[..., None], 0).sum(dim=1)
    return sum_BD / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
