"""The CPU kernels of the gated convolution: one pass forward, one pass backward.

A work item is one group of channels of one row. Nothing of length T is made but the result: backward computes
the convolved keys and values again.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.memory import fresh
from fftnet.ops.cpu.threads import GROUPS, jit, threads
from fftnet.ops.cpu.vector import load, store

BLOCK = 64
"""Tokens that a group of channels walks before the next group does, so that both find them in the cache."""


@jit
def _convolve(x, taps, past, b, t, c, group, width):  # pyright: ignore
    T, C, P = x.shape[1], x.shape[2], len(width) - 1
    here = (b * T + t) * C + c
    y = load(taps, P * C + c, group) * load(x, here, group)
    for i in range(1, len(width)):
        earlier = load(x, here - i * C, group) if i <= t else load(past, (b * P + P + t - i) * C + c, group)
        y = y + load(taps, (P - i) * C + c, group) * earlier
    return y


@jit
def _spread(grad, x, taps, past, grad_x, grad_past, sums, b, t, c, group, width):  # pyright: ignore
    T, C, P = x.shape[1], x.shape[2], len(width) - 1
    here = (b * T + t) * C + c
    newest = (b * len(width) + P) * C + c
    store(grad_x, here, load(taps, P * C + c, group) * grad)
    store(sums, newest, load(sums, newest, group) + grad * load(x, here, group))
    for i in range(1, len(width)):
        tap, total = load(taps, (P - i) * C + c, group), newest - i * C
        if i <= t:
            at = here - i * C
            store(grad_x, at, load(grad_x, at, group) + tap * grad)
            store(sums, total, load(sums, total, group) + grad * load(x, at, group))
        else:
            at = (b * P + P + t - i) * C + c
            store(grad_past, at, load(grad_past, at, group) + tap * grad)
            store(sums, total, load(sums, total, group) + grad * load(past, at, group))


@jit
def _forward(first, last, group, width, x, taps, past, y):  # pyright: ignore
    T, D, lanes = x.shape[1], x.shape[2] // 2, len(group)
    G = D // lanes
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                for t in range(t0, min(t0 + BLOCK, T)):
                    key = _convolve(x, taps, past, b, t, g * lanes, group, width)
                    value = _convolve(x, taps, past, b, t, D + g * lanes, group, width)
                    store(y, (b * T + t) * D + g * lanes, key * value)


@jit
def _backward(first, last, group, width, grad_y, x, taps, past, grad_x, grad_past, sums):  # pyright: ignore
    T, D, lanes = x.shape[1], x.shape[2] // 2, len(group)
    G = D // lanes
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * lanes
                for t in range(t0, min(t0 + BLOCK, T)):
                    grad = load(grad_y, (b * T + t) * D + c, group)
                    key = _convolve(x, taps, past, b, t, c, group, width)
                    value = _convolve(x, taps, past, b, t, D + c, group, width)
                    _spread(grad * value, x, taps, past, grad_x, grad_past, sums, b, t, c, group, width)
                    _spread(grad * key, x, taps, past, grad_x, grad_past, sums, b, t, D + c, group, width)


def _run(kernel: Any, x: Tensor, taps: Tensor, *arguments: Tensor) -> None:
    half = x.shape[2] // 2
    group = next(group for group in GROUPS if half % len(group) == 0)
    items = x.shape[0] * (half // len(group))
    arrays = (tensor.numpy() for tensor in arguments)
    threads.run(kernel, items, x.numel(), group, (0,) * taps.shape[1], *arrays)


def forward(x: Tensor, taps: Tensor, past: Tensor) -> Tensor:
    """Gated values (B, T, D) of contiguous tensors of one dtype; see :mod:`fftnet.ops.gated_conv`."""
    y = fresh(x, *x.shape[:2], x.shape[2] // 2)
    _run(_forward, x, taps, x, taps.T.contiguous(), past, y)
    return y


def backward(grad_y: Tensor, x: Tensor, taps: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``taps`` and ``past``."""
    grad_x, grad_past = fresh(x), torch.zeros_like(past)
    sums = x.new_zeros(x.shape[0], taps.shape[1], x.shape[2])
    _run(_backward, x, taps, grad_y, x, taps.T.contiguous(), past, grad_x, grad_past, sums)
    return grad_x, sums.sum(dim=0).T.contiguous(), grad_past
