"""The CPU kernels of the gated convolution: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row of the
batch. Nothing of length T is made but the result: backward computes the convolved keys and values again.

The kernels get the filters transposed, (W, C), so that a tap's weights of neighbouring channels are
neighbours; and W as the length of a tuple, ``taps``, which the compiler knows, so that it
unrolls the loop over taps.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store

BLOCK = 64
"""Tokens that one vector of channels walks before the next does: channels of a token are neighbours in
memory, so the next vector finds in the cache what was fetched for the first."""


@jit
def _convolve(x, weight, past, b, t, c, lanes, taps):  # pyright: ignore
    """``sum_i weight[W-1-i] * x(t-i)`` for the channels from c on."""
    T = x.shape[1]
    C = x.shape[2]
    P = len(taps) - 1
    here = (b * T + t) * C + c
    y = load(weight, P * C + c, lanes) * load(x, here, lanes)
    for i in range(1, len(taps)):
        # Before the first token stand those of the state: x(-1) is its last.
        earlier = load(x, here - i * C, lanes) if i <= t else load(past, (b * P + P + t - i) * C + c, lanes)
        y = y + load(weight, (P - i) * C + c, lanes) * earlier
    return y


@jit
def _convolve_back(  # pyright: ignore
    grad, x, weight, past, grad_x, grad_past, grad_weight, b, t, c, lanes, taps
):
    """Add what ``grad``, the gradient of the convolution at t, gives to tokens, state and weights."""
    T = x.shape[1]
    C = x.shape[2]
    P = len(taps) - 1
    here = (b * T + t) * C + c
    newest = (b * len(taps) + P) * C + c
    # The newest tap is the first to reach token t as time goes on, so it sets where the others add.
    store(grad_x, here, load(weight, P * C + c, lanes) * grad)
    store(grad_weight, newest, load(grad_weight, newest, lanes) + grad * load(x, here, lanes))
    for i in range(1, len(taps)):
        w = load(weight, (P - i) * C + c, lanes)
        tap = newest - i * C
        if i <= t:
            at = here - i * C
            store(grad_x, at, load(grad_x, at, lanes) + w * grad)
            store(grad_weight, tap, load(grad_weight, tap, lanes) + grad * load(x, at, lanes))
        else:
            at = (b * P + P + t - i) * C + c
            store(grad_past, at, load(grad_past, at, lanes) + w * grad)
            store(grad_weight, tap, load(grad_weight, tap, lanes) + grad * load(past, at, lanes))


@jit
def _forward(first, last, lanes, taps, x, weight, past, values):  # pyright: ignore
    T = x.shape[1]
    D = x.shape[2] // 2
    G = D // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    key = _convolve(x, weight, past, b, t, c, lanes, taps)
                    value = _convolve(x, weight, past, b, t, D + c, lanes, taps)
                    store(values, (b * T + t) * D + c, key * value)


@jit
def _backward(  # pyright: ignore
    first, last, lanes, taps, grad_values, x, weight, past, grad_x, grad_past, grad_weight
):
    T = x.shape[1]
    D = x.shape[2] // 2
    G = D // len(lanes)
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    grad = load(grad_values, (b * T + t) * D + c, lanes)
                    key = _convolve(x, weight, past, b, t, c, lanes, taps)
                    value = _convolve(x, weight, past, b, t, D + c, lanes, taps)
                    grad_key = grad * value
                    _convolve_back(
                        grad_key, x, weight, past, grad_x, grad_past, grad_weight, b, t, c, lanes, taps
                    )
                    grad_value = grad * key
                    _convolve_back(
                        grad_value, x, weight, past, grad_x, grad_past, grad_weight, b, t, D + c, lanes, taps
                    )


def _run(kernel: Any, x: Tensor, conv_weight: Tensor, *arguments: Tensor) -> None:
    width = x.shape[2] // 2
    lanes = widest_lanes(width)
    items = x.shape[0] * (width // len(lanes))
    taps = (0,) * conv_weight.shape[1]
    threads.run(kernel, items, x.numel(), lanes, taps, *(tensor.numpy() for tensor in arguments))


def forward(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_conv`` for the contract of a backend."""
    values = empty(x, *x.shape[:2], x.shape[2] // 2)
    _run(_forward, x, conv_weight, x, conv_weight.T.contiguous(), conv_state, values)
    return values


def backward(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, grad_values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.gated_conv`` for the contract of a backend."""
    grad_x = empty(x)
    grad_past = torch.zeros_like(conv_state)
    # One sum a row of the batch, since rows are done by different threads.
    grad_weight = x.new_zeros(x.shape[0], conv_weight.shape[1], x.shape[2])
    inputs = (grad_values, x, conv_weight.T.contiguous(), conv_state)
    _run(_backward, x, conv_weight, *inputs, grad_x, grad_past, grad_weight)
    return grad_x, grad_weight.sum(dim=0).T.contiguous(), grad_past
