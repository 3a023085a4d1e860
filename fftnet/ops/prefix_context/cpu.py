"""The CPU kernels of the prefix context: running mean beside the token, one pass each way.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row of the
batch.
"""

from typing import Any

from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store

BLOCK = 64
"""Tokens that one vector of channels walks before the next does: channels of a token are neighbours in
memory, so the next vector finds in the cache what was fetched for the first."""


@jit
def _entering(count, horizon):  # pyright: ignore
    """How many tokens a mean stands for that has just read ``count``; a horizon of 0 is none."""
    return count if horizon == 0 or count < horizon else horizon


@jit
def _forward(first, last, lanes, horizon, x, count, context, mean):  # pyright: ignore
    _, T, D = x.shape
    G = D // len(lanes)  # vectors a row of the batch: item = b * G + g
    one = x.dtype.type(1)
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                m = load(mean, b * D + c, lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    token = load(x, (b * T + t) * D + c, lanes)
                    # mean(t) = mean(t-1) + (x(t) - mean(t-1)) / n(t): exact however long the text is.
                    m = m + (token - m) * (one / x.dtype.type(_entering(count[b] + t + 1, horizon)))
                    out = (b * T + t) * 2 * D + c
                    store(context, out, m)
                    store(context, out + D, token)
                store(mean, b * D + c, m)


@jit
def _backward(first, last, lanes, horizon, grad_context, count, grad_x, grad_mean):  # pyright: ignore
    _, T, D = grad_x.shape
    G = D // len(lanes)
    one = grad_x.dtype.type(1)
    for b in range(first // G, (last + G - 1) // G):
        for block in range((T - 1) // BLOCK, -1, -1):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                grad = load(grad_mean, b * D + c, lanes)
                for t in range(min((block + 1) * BLOCK, T) - 1, block * BLOCK - 1, -1):
                    out = (b * T + t) * 2 * D + c
                    share = one / grad_x.dtype.type(_entering(count[b] + t + 1, horizon))
                    # grad is that of mean(t), through which all later ones see x(t).
                    grad = grad + load(grad_context, out, lanes)
                    store(grad_x, (b * T + t) * D + c, share * grad + load(grad_context, out + D, lanes))
                    grad = grad * (one - share)
                store(grad_mean, b * D + c, grad)


def _run(kernel: Any, x: Tensor, horizon: int, *arguments: Tensor) -> None:
    lanes = widest_lanes(x.shape[2])
    items = x.shape[0] * (x.shape[2] // len(lanes))
    threads.run(kernel, items, x.numel(), lanes, horizon, *(tensor.numpy() for tensor in arguments))


def forward(x: Tensor, mean: Tensor, count: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context`` for the contract of a backend."""
    context = empty(x, *x.shape[:2], 2 * x.shape[2])
    last = mean.clone()
    _run(_forward, x, horizon, x, count, context, last)
    return context, last


def backward(count: Tensor, grad_context: Tensor, grad_mean: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context`` for the contract of a backend."""
    batch, tokens, channels = grad_context.shape
    grad_x = empty(grad_context, batch, tokens, channels // 2)
    grad_start = grad_mean.clone()
    _run(_backward, grad_x, horizon, grad_context, count, grad_x, grad_start)
    return grad_x, grad_start
