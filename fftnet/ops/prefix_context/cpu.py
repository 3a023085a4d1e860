"""The CPU kernels of the prefix context: running mean next to the token, one pass each way.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row.
"""

from typing import Any

from torch import Tensor

from fftnet.ops.cpu import BLOCK
from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store


@jit
def _effective_window(count, horizon):  # pyright: ignore
    """Number of tokens in the running mean after ``count`` tokens; a horizon of 0 means unlimited."""
    return count if horizon == 0 or count < horizon else horizon


@jit
def _forward(first, last, lanes, horizon, x, count, context, mean):  # pyright: ignore
    _, T, D = x.shape
    number = x.dtype.type
    G = D // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                m = load(mean, (b, c), lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    token = load(x, (b, t, c), lanes)
                    # mean(t) = mean(t-1) + (x(t) - mean(t-1)) / n(t): exact however long the text is.
                    m = m + (token - m) * (number(1) / number(_effective_window(count[b] + t + 1, horizon)))
                    # c_t = [mean; x(t)]: docs/maths.md, section 3, step 4.
                    store(context, (b, t, c), m)
                    store(context, (b, t, D + c), token)
                store(mean, (b, c), m)


@jit
def _backward(first, last, lanes, horizon, grad_context, count, grad_x, grad_mean):  # pyright: ignore
    _, T, D = grad_x.shape
    number = grad_x.dtype.type
    G = D // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range((T - 1) // BLOCK * BLOCK, -1, -BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                grad = load(grad_mean, (b, c), lanes)
                for t in range(min(t0 + BLOCK, T) - 1, t0 - 1, -1):
                    share = number(1) / number(_effective_window(count[b] + t + 1, horizon))
                    # The whole gradient of mean(t), through which all later means see x(t).
                    grad = grad + load(grad_context, (b, t, c), lanes)
                    store(grad_x, (b, t, c), share * grad + load(grad_context, (b, t, D + c), lanes))
                    grad = grad * (number(1) - share)
                store(grad_mean, (b, c), grad)


def _run(kernel: Any, x: Tensor, *arguments: Any) -> None:
    lanes = widest_lanes(x.shape[2])
    threads.run(kernel, x.shape[0] * (x.shape[2] // len(lanes)), x.numel(), lanes, *arguments)


def forward(x: Tensor, mean: Tensor, count: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    context = empty(x, *x.shape[:2], 2 * x.shape[2])
    last = mean.clone()
    _run(_forward, x, horizon, x, count, context, last)
    return context, last


def backward(count: Tensor, grad_context: Tensor, grad_mean: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    batch, tokens, channels = grad_context.shape
    grad_x = empty(grad_context, batch, tokens, channels // 2)
    grad_start = grad_mean.clone()
    _run(_backward, grad_x, horizon, grad_context, count, grad_x, grad_start)
    return grad_x, grad_start
