"""The CPU kernels of the short convolution: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row of the
batch; a vector holds values or keys, never both. Backward computes the convolved values again.
"""

from math import gcd
from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.convolution import BLOCK, convolve, convolve_back
from fftnet.ops.cpu.functions import sigmoid
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store


@jit
def _forward(first, last, lanes, taps, x, weight, past, values, keys):  # pyright: ignore
    _, T, C = x.shape
    D = values.shape[2]
    G = C // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    y = convolve(x, weight, past, b, t, c, lanes, taps)
                    if c < D:
                        store(values, (b * T + t) * D + c, y * sigmoid(y))
                    else:
                        store(keys, (b * T + t) * (C - D) + c - D, y)


@jit
def _backward(  # pyright: ignore
    first, last, lanes, taps, grad_values, grad_keys, x, weight, past, grad_x, grad_past, grad_weight
):
    _, T, C = x.shape
    D = grad_values.shape[2]
    G = C // len(lanes)
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    if c < D:
                        y = convolve(x, weight, past, b, t, c, lanes, taps)
                        opened = sigmoid(y)
                        slope = opened * (1 + y * (1 - opened))
                        grad = slope * load(grad_values, (b * T + t) * D + c, lanes)
                    else:
                        grad = load(grad_keys, (b * T + t) * (C - D) + c - D, lanes)
                    convolve_back(grad, x, weight, past, grad_x, grad_past, grad_weight, b, t, c, lanes, taps)


def _run(kernel: Any, x: Tensor, conv_weight: Tensor, width: int, *arguments: Tensor) -> None:
    lanes = widest_lanes(gcd(width, x.shape[2] - width))
    items = x.shape[0] * (x.shape[2] // len(lanes))
    taps = (0,) * conv_weight.shape[1]
    threads.run(kernel, items, x.numel(), lanes, taps, *(tensor.numpy() for tensor in arguments))


def forward(x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.short_conv`` for the contract of a backend."""
    values = empty(x, *x.shape[:2], width)
    keys = empty(x, *x.shape[:2], x.shape[2] - width)
    _run(_forward, x, conv_weight, width, x, conv_weight.T.contiguous(), conv_state, values, keys)
    return values, keys


def backward(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, grad_values: Tensor, grad_keys: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.short_conv`` for the contract of a backend."""
    grad_x = empty(x)
    grad_past = torch.zeros_like(conv_state)
    # One sum a row of the batch, since rows are done by different threads.
    grad_weight = x.new_zeros(x.shape[0], conv_weight.shape[1], x.shape[2])
    inputs = (grad_values, grad_keys, x, conv_weight.T.contiguous(), conv_state)
    _run(_backward, x, conv_weight, width, *inputs, grad_x, grad_past, grad_weight)
    return grad_x, grad_weight.sum(dim=0).T.contiguous(), grad_past
