"""Tokens cut into blocks; and chunks, with how long ago their tokens were, for exported programs."""

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 32
"""Tokens of a chunk, of which every pair is looked at."""


def in_blocks(x: Tensor, length: int) -> Tensor:
    """(B, T, ...) to (B, N, length, ...), with zeros behind the last token."""
    padded = functional.pad(x, (0, 0) * (x.ndim - 2) + (0, -x.shape[1] % length))
    return padded.unflatten(1, (-1, length))


def chunked(x: Tensor) -> Tensor:
    """(B, T, ...) to (B, N, CHUNK, ...), with zeros behind the last token."""
    tokens = x.shape[1]
    if isinstance(tokens, int):
        return in_blocks(x, CHUNK)
    # To torch.export one chunk and several are two programs. Where T stays open there are always several.
    number = tokens // CHUNK + 2
    x = functional.pad(x, (0, 0) * (x.ndim - 2) + (0, number * CHUNK - tokens))
    # That an open T fits its chunks is more than torch.export can prove of a view.
    first_N1 = CHUNK * torch.arange(number, device=x.device)[:, None]
    return x[:, first_N1 + torch.arange(CHUNK, device=x.device)]


def joined(x: Tensor, tokens: int) -> Tensor:
    """The way back, without the padding."""
    if isinstance(tokens, int):
        return x.flatten(1, 2)[:, :tokens]
    t = torch.arange(tokens, device=x.device)
    return x[:, t // CHUNK, t % CHUNK]


def ages(time: Tensor) -> Tensor:
    """Time that passes after entry j until the end of entry t, (..., N) to (..., N, N); 0 where j >= t.

    It is summed up for every pair. The difference of two sums from the beginning would lose its digits.
    """
    n = torch.arange(time.shape[-1], device=time.device)
    return (time[..., None] * (n[:, None] > n)).cumsum(dim=-2)


def not_later(x: Tensor) -> Tensor:
    """1 where entry j is not later than entry t, else 0; for (..., N) as (N, N) in the dtype of ``x``."""
    n = torch.arange(x.shape[-1], device=x.device)
    return (n[:, None] >= n).to(x.dtype)
