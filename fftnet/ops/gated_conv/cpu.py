"""The CPU kernels of the gated convolution: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row of the
batch. Nothing of length T is made but the result: backward computes the convolved keys and values again.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.convolution import BLOCK, convolve, convolve_back
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store


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
                    key = convolve(x, weight, past, b, t, c, lanes, taps)
                    value = convolve(x, weight, past, b, t, D + c, lanes, taps)
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
                    key = convolve(x, weight, past, b, t, c, lanes, taps)
                    value = convolve(x, weight, past, b, t, D + c, lanes, taps)
                    grad_key = grad * value
                    convolve_back(
                        grad_key, x, weight, past, grad_x, grad_past, grad_weight, b, t, c, lanes, taps
                    )
                    grad_value = grad * key
                    convolve_back(
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
