"""Division of neighbouring numbers by their size, sqrt(sum of squares / count), and its gradient.

See ``fftnet.ops.cpu`` for how to read kernels. How many numbers there are is told like the lanes: ``vectors``
is a tuple as long as they are vectors, which the compiler knows, so that it leaves no loop. ``count`` is
another number for complex ones, real and imaginary plane, of which there are half as many.
"""

import numpy as np

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.vector import load, store, sum_lanes

SPAN = 64
"""Tokens of a work item of a kernel that does every token by itself: enough of them to be worth a row in the
sums over tokens, few enough that a short text has several items."""


def split(numbers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``lanes`` and ``vectors`` of so many neighbouring numbers, a multiple of ``VECTOR_WIDTH``."""
    lanes = widest_lanes(numbers)
    return lanes, (0,) * (numbers // len(lanes))


@jit
def add(sums, at, x, lanes):  # pyright: ignore
    """Add a vector to what stands there."""
    store(sums, at, load(sums, at, lanes) + x)


@jit
def inverse_size(x, at, count, eps, lanes, vectors):  # pyright: ignore
    """``1 / sqrt(sum of squares / count + eps)`` of the numbers from ``at`` on, a scalar."""
    scalar = x.dtype.type
    part = load(x, at, lanes)
    total = part * part
    for n in range(1, len(vectors)):
        part = load(x, at + n * len(lanes), lanes)
        total = total + part * part
    return scalar(1) / np.sqrt(sum_lanes(total) * scalar(1 / count) + scalar(eps))


@jit
def divide_back(grad, x, at, count, inverse, lanes, vectors):  # pyright: ignore
    """In place of the gradient of ``inverse * x``, which ``grad`` holds, put that of x.

    The inverse size falls along x: with n = inverse x, it is ``inverse (grad - n (n . grad) / count)``.
    """
    total = load(grad, at, lanes) * load(x, at, lanes)
    for n in range(1, len(vectors)):
        here = at + n * len(lanes)
        total = total + load(grad, here, lanes) * load(x, here, lanes)
    along = inverse * inverse * sum_lanes(total) * x.dtype.type(1 / count)
    for n in range(len(vectors)):
        here = at + n * len(lanes)
        store(grad, here, inverse * (load(grad, here, lanes) - along * load(x, here, lanes)))
