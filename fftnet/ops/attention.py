"""Attention with rotary positions and a key-value cache, around PyTorch's kernel; sinusoidal positions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fftnet.ops.numerics import compute_dtype

WAVELENGTH = 10000.0
"""The slowest rotary pair turns by 1 / WAVELENGTH radians per token, the fastest by 1."""
BLOCK = 256
"""Number of queries that share one mask, so that no mask holds more than BLOCK times the keys."""


def sinusoids(position: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return sine and cosine positions of any length, wavelengths log-spaced from 2 pi to 20,000 pi tokens.

    Args:
        position: integer positions (B, T).
        width: D; odd widths drop the last cosine.
        dtype: of the result; computed in float32.

    Returns:
        Tensor of shape (B, T, D).
    """
    pairs = (width + 1) // 2
    rate = torch.exp(torch.arange(pairs, device=position.device) * (-math.log(WAVELENGTH) / max(pairs, 1)))
    angle = position[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width].to(dtype)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions: channel pairs (i, i + d / 2) turn by ``position * WAVELENGTH ** (-2 i / d)``.

    Args:
        x: queries or keys (B, T, H, d) of any floating dtype, d even; rotated in float32 (float64 for
            float64).
        position: integer positions (B, T); a first dimension of 1 serves every row.

    Returns:
        Tensor of the shape and dtype of ``x``.
    """
    dtype = compute_dtype(x)
    width = x.shape[-1]
    rate = WAVELENGTH ** (-torch.arange(0, width, 2, device=x.device, dtype=dtype) / width)
    angle_BT1d = (position[..., None].to(dtype) * rate)[:, :, None]
    cos = angle_BT1d.cos()
    sin = angle_BT1d.sin()
    one, other = x.to(dtype).chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1).to(x.dtype)


def append(cache: Tensor, new: Tensor, count: Tensor) -> Tensor:
    """Return a cache that is T tokens longer, with the new tokens behind those of their row; a copy.

    Args:
        cache: (B, H, S, d), S >= max(count).
        new: (B, T, H, d).
        count: int64 number of tokens of each row that are in the cache, (B,).

    Returns:
        (B, H, S + T, d) in the dtype of ``cache``.
    """
    tokens = new.shape[1]
    slot_S = torch.arange(cache.shape[2] + tokens, device=cache.device)
    # Rows have read different numbers of tokens, so each slot looks up the new token that belongs to it.
    index_BS = slot_S - count[:, None]
    is_new_BS = (index_BS >= 0) & (index_BS < tokens)
    _, _, heads, width = new.shape
    index_BHSd = index_BS.clamp(0, tokens - 1)[:, None, :, None].expand(-1, heads, -1, width)
    placed_BHSd = new.to(cache.dtype).transpose(1, 2).gather(2, index_BHSd)
    return torch.where(is_new_BS[:, None, :, None], placed_BHSd, F.pad(cache, (0, 0, 0, tokens)))


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, position: Tensor | None = None) -> Tensor:
    """``softmax(q k / sqrt(d)) v`` over the keys whose index does not exceed the query's position.

    Args:
        queries: (B, T, H, d) of any floating dtype.
        keys: (B, S, H, d), the one of position s at index s; anything finite behind a row's last one.
        values: (B, S, H, d).
        position: integer positions of the queries, (B, T); a first dimension of 1 serves every row. None: the
            queries are the last T of the S positions.

    Returns:
        Tensor of the shape and dtype of ``queries``.
    """
    q, keys, values = (x.to(queries.dtype).transpose(1, 2) for x in (queries, keys, values))
    tokens = q.shape[2]
    seen = keys.shape[2]
    # Without a mask PyTorch takes its fastest kernel.
    if position is None and tokens in (1, seen):
        return F.scaled_dot_product_attention(q, keys, values, is_causal=tokens > 1).transpose(1, 2)
    if position is None:
        position = torch.arange(seen - tokens, seen, device=q.device)[None]
    slot_S = torch.arange(seen, device=q.device)
    blocks = [
        F.scaled_dot_product_attention(rows, keys, values, attn_mask=slot_S <= at[:, None, :, None])
        for rows, at in zip(q.split(BLOCK, dim=2), position.split(BLOCK, dim=1), strict=True)
    ]
    return torch.cat(blocks, dim=2).transpose(1, 2)


def full_attention(
    queries: Tensor, keys: Tensor, values: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """``softmax(q k / sqrt(d)) v`` over all tokens of the row.

    Args:
        queries: (B, T, H, d) of any floating dtype.
        keys: (B, T, H, d), of the same tokens.
        values: (B, T, H, d), finite at padding, too.
        attention_mask: boolean (B, T); no token reads a False one. A row may be all False.

    Returns:
        Tensor of the shape and dtype of ``queries``, zero where the mask is False.
    """
    q, k, v = (x.to(queries.dtype).transpose(1, 2) for x in (queries, keys, values))
    if attention_mask is None:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    # A row without tokens reads its padding, since kernels do not agree on a softmax over nothing.
    is_read_BT = attention_mask | ~attention_mask.any(dim=1, keepdim=True)
    mixed_BHTd = F.scaled_dot_product_attention(q, k, v, attn_mask=is_read_BT[:, None, None])
    return mixed_BHTd.transpose(1, 2).masked_fill(~attention_mask[..., None, None], 0.0)


def attention_weights(queries: Tensor, keys: Tensor, *, causal: bool = True) -> Tensor:
    """Return the weights of ``causal_attention`` or ``full_attention``, which kernels never store.

    Args:
        queries: (B, T, H, d) of any floating dtype.
        keys: (B, T, H, d), of the same tokens.
        causal: give later tokens a weight of 0.

    Returns:
        (B, H, T, T), of the dtype of ``queries``: rows sum to 1.
    """
    score_BHTT = torch.einsum("bthd,bshd->bhts", queries, keys.to(queries.dtype)) / queries.shape[-1] ** 0.5
    if causal:
        later_TT = torch.ones(score_BHTT.shape[-2:], dtype=torch.bool, device=queries.device).triu(1)
        score_BHTT = score_BHTT.masked_fill(later_TT, -torch.inf)
    return score_BHTT.softmax(dim=-1)
