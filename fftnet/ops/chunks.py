"""Tokens cut into blocks, and into chunks with the ages of their tokens for exported programs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Planes = tuple[Tensor, Tensor]
"""Real and imaginary part."""
CHUNK = 32  # Number of tokens within which exported programs compute a weight for every pair.


def in_blocks(x: Tensor, length: int) -> Tensor:
    """Cut (B, T, ...) into (B, N, length, ...), with zeros behind the last token."""
    padded = functional.pad(x, (0, 0) * (x.ndim - 2) + (0, -x.shape[1] % length))
    return padded.unflatten(1, (-1, length))


def chunked(x: Tensor) -> Tensor:
    """Cut (B, T, ...) into (B, N, CHUNK, ...), with zeros behind the last token."""
    tokens = x.shape[1]
    if isinstance(tokens, int):
        return in_blocks(x, CHUNK)
    # To torch.export one chunk and several are two programs. If T stays open there are always several.
    number = tokens // CHUNK + 2
    x = functional.pad(x, (0, 0) * (x.ndim - 2) + (0, number * CHUNK - tokens))
    # An index instead of a view: torch.export can't prove that an open T fits its chunks.
    first_N1 = CHUNK * torch.arange(number, device=x.device)[:, None]
    return x[:, first_N1 + torch.arange(CHUNK, device=x.device)]


def joined(x: Tensor, tokens: int) -> Tensor:
    """Undo ``chunked``, without the padding."""
    if isinstance(tokens, int):
        return x.flatten(1, 2)[:, :tokens]
    t = torch.arange(tokens, device=x.device)
    return x[:, t // CHUNK, t % CHUNK]


def product(one: Planes, other: Planes, multiply: Callable[[Tensor, Tensor], Tensor]) -> Planes:
    """Return the complex product for a real one, element by element or of matrices."""
    real = multiply(one[0], other[0]) - multiply(one[1], other[1])
    return real, multiply(one[0], other[1]) + multiply(one[1], other[0])


def ages(time: Tensor) -> Tensor:
    """Return the time from the end of entry j to that of entry t, (..., N) to (..., N, N); 0 where j >= t."""
    # A sum for each pair: the difference of two sums from the beginning would lose digits.
    n = torch.arange(time.shape[-1], device=time.device)
    return (time[..., None] * (n[:, None] > n)).cumsum(dim=-2)


def decay_kernel(time: Tensor) -> Tensor:
    """Return ``exp(-age)`` of entry j at entry t, (..., N) to (..., N, N); 0 where j is later than t."""
    return torch.exp(-ages(time)) * not_later(time)


def not_later(x: Tensor) -> Tensor:
    """Return 1 where entry j is not later than entry t, else 0; (..., N) to (N, N) in the dtype of ``x``."""
    n = torch.arange(x.shape[-1], device=x.device)
    return (n[:, None] >= n).to(x.dtype)
