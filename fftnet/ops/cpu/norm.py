"""Division of neighbouring numbers by their size, sqrt(sum of squares / count), and its gradient.

See ``fftnet.ops.cpu`` for how to read kernels. ``count`` is not always how many numbers there are: for
complex ones, as real and imaginary plane, it is half of that.
"""

import numpy as np

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.vector import load, store, sum_lanes

SPAN = 64
"""Tokens of a work item of a kernel that does every token by itself: enough of them to be worth a row in the
sums over tokens, few enough that a short text has several items."""


@jit
def add(sums, at, x, lanes):  # pyright: ignore
    """Add a vector to what stands there."""
    store(sums, at, load(sums, at, lanes) + x)


@jit
def inverse_size(x, at, numbers, count, eps, lanes):  # pyright: ignore
    """``1 / sqrt(sum of squares / count + eps)`` of the numbers from ``at`` on, a scalar."""
    scalar = x.dtype.type
    part = load(x, at, lanes)
    total = part * part
    for k in range(len(lanes), numbers, len(lanes)):
        part = load(x, at + k, lanes)
        total = total + part * part
    return scalar(1) / np.sqrt(sum_lanes(total) / scalar(count) + scalar(eps))


@jit
def divide_back(grad, x, at, numbers, count, inverse, lanes):  # pyright: ignore
    """In place of the gradient of ``inverse * x``, which ``grad`` holds, put that of x.

    The inverse size falls along x: with n = inverse x, it is ``inverse (grad - n (n . grad) / count)``.
    """
    total = load(grad, at, lanes) * load(x, at, lanes)
    for k in range(len(lanes), numbers, len(lanes)):
        total = total + load(grad, at + k, lanes) * load(x, at + k, lanes)
    along = inverse * inverse * sum_lanes(total) / x.dtype.type(count)
    for k in range(0, numbers, len(lanes)):
        store(grad, at + k, inverse * (load(grad, at + k, lanes) - along * load(x, at + k, lanes)))
