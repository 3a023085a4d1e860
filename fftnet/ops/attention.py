"""Attention with rotary positions and a key-value cache, around PyTorch's kernel; sinusoidal positions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fftnet.ops.numerics import compute_dtype

WAVELENGTH = 10000.0
"""The slowest rotary pair turns by 1 / WAVELENGTH radians per token, the fastest by 1."""
BLOCK = 256  # Number of queries that share one mask, so that no mask holds more than BLOCK times the keys.


def sinusoids(position: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return sine and cosine of positions (B, T), wavelengths from 2 pi to 20,000 pi tokens, as (B, T, D)."""
    pairs = (width + 1) // 2
    rate = torch.exp(torch.arange(pairs, device=position.device) * (-math.log(WAVELENGTH) / max(pairs, 1)))
    angle = position[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width].to(dtype)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions: channel pairs (i, i + d / 2) turn by ``position * WAVELENGTH ** (-2 i / d)``.

    ``x`` are queries or keys (B, T, H, d), d even; ``position`` is (B, T), or (1, T) for every row.
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
    """Return a longer copy of the cache (B, H, S, d): new tokens follow the ``count`` of each row."""
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

    Queries are (B, T, H, d). Keys and values are (B, S, H, d), that of position s at index s, and anything
    finite behind a row's last one. ``position`` is (B, T), or (1, T) for every row; None: the last T of S.
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
    """``softmax(q k / sqrt(d)) v`` over all tokens of the row, (B, T, H, d); values are finite everywhere.

    No token reads one where ``attention_mask`` (B, T) is False. The result is 0 there; whole rows may be.
    """
    q, k, v = (x.to(queries.dtype).transpose(1, 2) for x in (queries, keys, values))
    if attention_mask is None:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    # A row without tokens reads its padding, since kernels do not agree on a softmax over nothing.
    is_read_BT = attention_mask | ~attention_mask.any(dim=1, keepdim=True)
    mixed_BHTd = F.scaled_dot_product_attention(q, k, v, attn_mask=is_read_BT[:, None, None])
    return mixed_BHTd.transpose(1, 2).masked_fill(~attention_mask[..., None, None], 0.0)


def attention_weights(queries: Tensor, keys: Tensor, *, causal: bool = True) -> Tensor:
    """Return the weights (B, H, T, T) of ``causal_attention`` or ``full_attention``, which store none."""
    score_BHTT = torch.einsum("bthd,bshd->bhts", queries, keys.to(queries.dtype)) / queries.shape[-1] ** 0.5
    if causal:
        later_TT = torch.ones(score_BHTT.shape[-2:], dtype=torch.bool, device=queries.device).triu(1)
        score_BHTT = score_BHTT.masked_fill(later_TT, -torch.inf)
    return score_BHTT.softmax(dim=-1)
