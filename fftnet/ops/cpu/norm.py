"""Root mean square of neighbouring numbers: division by it, its gradient, and RMSNorm with an optional gate.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is SPAN tokens with all of their heads, counted
over the rows of the batch. The gradient of the weight is one sum an item, and so the same on any number of
threads. Backward computes root mean square and gate again.
"""

from typing import Any

import numpy as np
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.functions import sigmoid
from fftnet.ops.cpu.memory import copies, empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store, sum_lanes
from fftnet.ops.numerics import NORM_EPS

SPAN = 64
"""Tokens of a work item whose tokens are independent: enough of them to be worth a row in the sums over
tokens, few enough that a short text has several items."""


def count_spans(x: Tensor) -> int:
    """Return the number of work items in (B, T, ...)."""
    return -(-x.shape[0] * x.shape[1] // SPAN)


def split(numbers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return ``lanes`` and ``vectors`` for a multiple of ``VECTOR_WIDTH`` numbers."""
    lanes = widest_lanes(numbers)
    return lanes, (0,) * (numbers // len(lanes))


@jit
def add(sums, index, x, lanes):  # pyright: ignore
    """Add a vector to ``sums``, from ``sums[index]`` on."""
    store(sums, index, load(sums, index, lanes) + x)


@jit
def inverse_rms(x, n, h, width, count, lanes):  # pyright: ignore
    """1 / sqrt(sum of squares / count + NORM_EPS) of the numbers ``x[n, h]``; a complex one counts once."""
    # The first vector starts the sum, which then has a type.
    part = load(x, (n, h, 0), lanes)
    total = part * part
    for c in range(len(lanes), width, len(lanes)):
        part = load(x, (n, h, c), lanes)
        total = total + part * part
    number = x.dtype.type
    return number(1) / np.sqrt(sum_lanes(total) * number(1 / count) + number(NORM_EPS))


@jit
def divide_back(grad, x, n, h, width, dot, count, inverse, lanes):  # pyright: ignore
    """Replace the gradient of ``inverse * x``, which ``grad`` holds, by that of x.

    1 / rms depends on x, too: with y = inverse x it is ``inverse (grad - y (y . grad) / count)``. ``dot`` is
    a vector whose lanes sum up to ``x . grad``.
    """
    along = inverse * inverse * sum_lanes(dot) * x.dtype.type(1 / count)
    for c in range(0, width, len(lanes)):
        index = (n, h, c)
        store(grad, index, inverse * (load(grad, index, lanes) - along * load(x, index, lanes)))


@jit
def _forward(first, last, lanes, vectors, x, gate, weight, out):  # pyright: ignore
    N, H, d = x.shape
    # Without a gate a kernel is compiled once for all widths.
    if len(vectors) > 0:
        d = len(lanes) * len(vectors)
    for n in range(first * SPAN, min(last * SPAN, N)):
        for h in range(H):
            inverse = inverse_rms(x, n, h, d, d, lanes)
            for c in range(0, d, len(lanes)):
                # weight x / rms(x) sigmoid(gate): docs/maths.md, section 3, step 7.
                y = inverse * load(x, (n, h, c), lanes) * load(weight, (h, c), lanes)
                if gate is not None:
                    y = y * sigmoid(load(gate, (n, h, c), lanes))
                store(out, (n, h, c), y)


@jit
def _backward(first, last, lanes, vectors, x, gate, weight, grad_out, grad_x, grad_gate, grad_weight):  # pyright: ignore
    N, H, d = x.shape
    if len(vectors) > 0:
        d = len(lanes) * len(vectors)
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, N)):
            for h in range(H):
                inverse = inverse_rms(x, n, h, d, d, lanes)
                # A vector of zeros, or of NaN where x is not finite: then the result is NaN anyway.
                dot = load(x, (n, h, 0), lanes) * 0
                for c in range(0, d, len(lanes)):
                    index = (n, h, c)
                    part = load(x, index, lanes)
                    scale = load(weight, (h, c), lanes)
                    grad = load(grad_out, index, lanes)
                    if gate is not None:
                        opened = sigmoid(load(gate, (n, h, c), lanes))
                        grad = grad * opened
                        # sigmoid' = sigmoid (1 - sigmoid), and grad holds the first factor already.
                        store(grad_gate, (n, h, c), inverse * grad * scale * part * (1 - opened))
                    # grad_x holds the gradient of x / rms(x) until divide_back.
                    add(grad_weight, (item, h, c), inverse * grad * part, lanes)
                    grad = grad * scale
                    dot = dot + grad * part
                    store(grad_x, index, grad)
                divide_back(grad_x, x, n, h, d, dot, d, inverse, lanes)


def _run(kernel: Any, x: Tensor, gate: Tensor | None, weight: Tensor, *others: Tensor | None) -> None:
    lanes, vectors = split(x.shape[-1])
    # (B, T, D) or (B, T, H, d) as (N, H, d), the tokens of all rows.
    shape = (-1, weight.numel() // x.shape[-1], x.shape[-1])
    tokens, gates, *results = [y if y is None else y.view(shape) for y in (x, gate, *others)]
    arrays = (tokens, gates, *copies(weight.view(shape[1:])), *results)
    threads.run(kernel, count_spans(x), x.numel(), lanes, () if gate is None else vectors, *arrays)


def forward(x: Tensor, gate: Tensor | None, weight: Tensor) -> Tensor:
    """Return ``weight x / rms(x) sigmoid(gate)``, with 1 for the sigmoid if ``gate`` is None."""
    out = empty(x)
    _run(_forward, x, gate, weight, out)
    return out


def backward(
    x: Tensor, gate: Tensor | None, weight: Tensor, grad_out: Tensor, grad_gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``weight``; write that of ``gate`` to ``grad_gate``."""
    grad_x = empty(x)
    grad_weight = x.new_zeros(count_spans(x), *weight.shape)
    _run(_backward, x, gate, weight, grad_out, grad_x, grad_gate, grad_weight)
    return grad_x, grad_weight.sum(dim=0)
