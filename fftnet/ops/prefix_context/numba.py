"""The CPU kernels of the prefix context: running mean beside the token, one pass each way.

A work item is one group of channels of one row.
"""

from typing import Any

from torch import Tensor

from fftnet.ops.cpu.memory import fresh
from fftnet.ops.cpu.threads import GROUPS, jit, threads
from fftnet.ops.cpu.vector import load, store

BLOCK = 64
"""Tokens that a group of channels walks before the next group does, so that both find them in the cache."""


@jit
def _forward(first, last, group, x, count, context, mean):  # pyright: ignore
    (_, T, D), lanes, one = x.shape, len(group), x.dtype.type(1)
    G = D // lanes
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * lanes
                m = load(mean, b * D + c, group)
                for t in range(t0, min(t0 + BLOCK, T)):
                    here = load(x, (b * T + t) * D + c, group)
                    m = m + (here - m) * (one / x.dtype.type(count[b] + t + 1))
                    at = (b * T + t) * 2 * D + c
                    store(context, at, m)
                    store(context, at + D, here)
                store(mean, b * D + c, m)


@jit
def _backward(first, last, group, grad, count, grad_x, total):  # pyright: ignore
    (_, T, D), lanes, one = grad_x.shape, len(group), grad_x.dtype.type(1)
    G = D // lanes
    for b in range(first // G, (last + G - 1) // G):
        for n in range((T - 1) // BLOCK, -1, -1):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * lanes
                s = load(total, b * D + c, group)
                for t in range(min((n + 1) * BLOCK, T) - 1, n * BLOCK - 1, -1):
                    at = (b * T + t) * 2 * D + c
                    s = s + load(grad, at, group) * (one / grad_x.dtype.type(count[b] + t + 1))
                    store(grad_x, (b * T + t) * D + c, s + load(grad, at + D, group))
                store(total, b * D + c, s)


def _run(kernel: Any, x: Tensor, *arguments: Tensor) -> None:
    group = next(group for group in GROUPS if x.shape[2] % len(group) == 0)
    items = x.shape[0] * (x.shape[2] // len(group))
    threads.run(kernel, items, x.numel(), group, *(tensor.numpy() for tensor in arguments))


def forward(x: Tensor, mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Context (B, T, 2 D) and the last mean (B, D), of contiguous tensors; ``count`` is int64 (B,)."""
    context, final = fresh(x, *x.shape[:2], 2 * x.shape[2]), mean.clone()
    _run(_forward, x, x, count, context, final)
    return context, final


def backward(grad: Tensor, grad_final: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``mean``."""
    grad_x = fresh(grad, *grad.shape[:2], grad.shape[2] // 2)
    total = grad_final / (count + grad.shape[1])[:, None]
    _run(_backward, grad_x, grad, count, grad_x, total)
    return grad_x, total * count[:, None]
