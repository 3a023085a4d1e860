"""Causal attention with rotary positions: what a key-value cache needs beside PyTorch's own kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fftnet.ops.numerics import compute_dtype

WAVELENGTH = 10000.0
"""The slowest rotary pair turns by 1 / WAVELENGTH radians per token, the fastest by 1."""
BLOCK = 256
"""Queries that share one mask, so that a mask never holds more than BLOCK times the keys."""


def rotate(x_BTHd: Tensor, position_BT: Tensor) -> Tensor:
    """Rotary positions: channel pairs (i, i + d / 2) turn by ``position * WAVELENGTH ** (-2 i / d)``.

    Args:
        x_BTHd: queries or keys of any floating dtype, d even; turned in float32 (float64 for float64).
        position_BT: integer positions; a first dimension of 1 serves every row.

    Returns:
        Tensor of the shape and dtype of ``x_BTHd``.
    """
    dtype, width = compute_dtype(x_BTHd), x_BTHd.shape[-1]
    rate = WAVELENGTH ** (-torch.arange(0, width, 2, device=x_BTHd.device, dtype=dtype) / width)
    angle_BT1d = (position_BT[..., None].to(dtype) * rate)[:, :, None]
    cos, sin = angle_BT1d.cos(), angle_BT1d.sin()
    one, other = x_BTHd.to(dtype).chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1).to(x_BTHd.dtype)


def causal_attention(
    q_BTHd: Tensor, keys_BSHd: Tensor, values_BSHd: Tensor, position_BT: Tensor | None = None
) -> Tensor:
    """``softmax(q k / sqrt(d)) v`` over the keys whose index does not exceed the query's position.

    Args:
        q_BTHd: queries.
        keys_BSHd: keys, the one of position s at index s; anything finite behind a row's last one.
        values_BSHd: values.
        position_BT: integer positions of the queries; a first dimension of 1 serves every row. None: the
            queries are the last T of the S positions.

    Returns:
        Tensor of the shape and dtype of ``q_BTHd``.
    """
    q, keys, values = (x.to(q_BTHd.dtype).transpose(1, 2) for x in (q_BTHd, keys_BSHd, values_BSHd))
    tokens, seen = q.shape[2], keys.shape[2]
    if position_BT is None and tokens in (1, seen):
        return F.scaled_dot_product_attention(q, keys, values, is_causal=tokens > 1).transpose(1, 2)
    if position_BT is None:
        position_BT = torch.arange(seen - tokens, seen, device=q.device)[None]
    slot_S = torch.arange(seen, device=q.device)
    blocks = [
        F.scaled_dot_product_attention(rows, keys, values, attn_mask=slot_S <= position[:, None, :, None])
        for rows, position in zip(q.split(BLOCK, dim=2), position_BT.split(BLOCK, dim=1), strict=True)
    ]
    return torch.cat(blocks, dim=2).transpose(1, 2)
