"""The CPU kernels of RMSNorm: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is SPAN tokens, counted over the rows of the
batch; the gradient of the weight is one sum an item, and so the same on any number of threads. Backward
computes the size again. Other than the channels of a head, those of a token are many, and are walked over by
a loop that is compiled once for all widths.
"""

from typing import Any

import numpy as np
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty, lent
from fftnet.ops.cpu.norm import SPAN, add
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store, sum_lanes
from fftnet.ops.numerics import NORM_EPS


@jit
def _forward(first, last, lanes, x, weight, out):  # pyright: ignore
    B, T, D = x.shape
    scalar = x.dtype.type
    for n in range(first * SPAN, min(last * SPAN, B * T)):
        at = n * D
        part = load(x, at, lanes)
        square = part * part
        for c in range(len(lanes), D, len(lanes)):
            part = load(x, at + c, lanes)
            square = square + part * part
        inverse = scalar(1) / np.sqrt(sum_lanes(square) / scalar(D) + scalar(NORM_EPS))
        for c in range(0, D, len(lanes)):
            store(out, at + c, inverse * load(x, at + c, lanes) * load(weight, c, lanes))


@jit
def _backward(first, last, lanes, x, weight, grad_out, grad_x, grad_weight):  # pyright: ignore
    B, T, D = x.shape
    scalar = x.dtype.type
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, B * T)):
            at = n * D
            part = load(x, at, lanes)
            square = part * part
            dot = part * load(weight, 0, lanes) * load(grad_out, at, lanes)
            for c in range(len(lanes), D, len(lanes)):
                part = load(x, at + c, lanes)
                square = square + part * part
                dot = dot + part * load(weight, c, lanes) * load(grad_out, at + c, lanes)
            inverse = scalar(1) / np.sqrt(sum_lanes(square) / scalar(D) + scalar(NORM_EPS))
            # The inverse size falls along x.
            along = inverse * inverse * sum_lanes(dot) / scalar(D)
            for c in range(0, D, len(lanes)):
                part = load(x, at + c, lanes)
                grad = load(grad_out, at + c, lanes)
                add(grad_weight, item * D + c, inverse * grad * part, lanes)
                store(grad_x, at + c, inverse * (grad * load(weight, c, lanes) - along * part))


def _items(x: Tensor) -> int:
    return -(-x.shape[0] * x.shape[1] // SPAN)


def _run(kernel: Any, x: Tensor, *arguments: Tensor) -> None:
    arrays = (tensor.numpy() for tensor in (x, *arguments))
    threads.run(kernel, _items(x), x.numel(), widest_lanes(x.shape[2]), *arrays)


def forward(x: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.rms_norm`` for the contract of a backend."""
    out = empty(x)
    _run(_forward, x, *lent(weight), out)
    return out


def backward(x: Tensor, weight: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.rms_norm`` for the contract of a backend."""
    grad_x = empty(x)
    grad_weight = x.new_zeros(_items(x), *weight.shape)
    _run(_backward, x, *lent(weight), grad_out, grad_x, grad_weight)
    return grad_x, grad_weight.sum(dim=0)
