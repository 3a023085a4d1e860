"""Checks of what users pass to models: sizes, shapes and dtypes, with messages that name the way out."""

import torch
from torch import Tensor


def head_dim(d_model: int, num_heads: int) -> int:
    """Return the channels d = D // H of a head; ValueError if they are not whole, or a size is below 1."""
    for name, value in (("d_model", d_model), ("num_heads", num_heads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if d_model % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide d_model={d_model}")
    return d_model // num_heads


def check_input(x: Tensor, d_model: int, attention_mask: Tensor | None) -> None:
    """Check tokens (B, T, ``d_model``) and a boolean mask (B, T) or None."""
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor of shape (batch, tokens, {d_model}), got {given(x)}")
    if x.ndim != 3 or x.shape[2] != d_model:
        raise ValueError(f"x must be of shape (batch, tokens, {d_model}), got {tuple(x.shape)}")
    if attention_mask is not None:
        check_mask(attention_mask, x.shape[:2])


def check_mask(attention_mask: Tensor, shape: tuple[int, ...]) -> None:
    """Check a boolean mask."""
    if not isinstance(attention_mask, Tensor):
        raise ValueError(f"attention_mask must be a boolean tensor, got {given(attention_mask)}")
    # A mask of shape (T,) would broadcast and give wrong results without an error.
    if attention_mask.shape != shape:
        expected = f"{tuple(shape)}, as the tokens are"
        raise ValueError(f"attention_mask must be of shape {expected}, got {tuple(attention_mask.shape)}")
    if attention_mask.dtype != torch.bool:
        raise ValueError(f"attention_mask must be boolean, got {attention_mask.dtype}: pass mask.bool()")


def check_ids(tokens: Tensor) -> None:
    """Check int64 ids (B, T)."""
    if not isinstance(tokens, Tensor):
        way = "torch.tensor([tokenizer.encode(text)])" if isinstance(tokens, str) else "torch.as_tensor(ids)"
        raise ValueError(f"tokens must be a tensor of int64 ids, got {given(tokens)}: use {way}")
    if tokens.dtype != torch.int64:
        raise ValueError(f"tokens must be int64 ids, got {tokens.dtype}")
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be of shape (batch, tokens), got {tuple(tokens.shape)}")


def given(value: object) -> str:
    """Return the shape of a tensor, or the type of another value, for a message."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a value of type {type(value).__name__}"
