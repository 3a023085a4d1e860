"""The CPU kernels of norm and gate: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is SPAN tokens with all of their heads, counted
over the rows of the batch; the gradient of the weight is one sum an item, and so the same on any number of
threads. Backward computes size and gate again.
"""

from typing import Any

from torch import Tensor

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import sigmoid
from fftnet.ops.cpu.memory import empty, lent
from fftnet.ops.cpu.norm import SPAN, add, divide_back, inverse_size, split
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store
from fftnet.ops.numerics import NORM_EPS


@jit
def _forward(first, last, lanes, vectors, x, gate, weight, out):  # pyright: ignore
    B, T, H, _ = x.shape
    d = len(lanes) * len(vectors)
    for n in range(first * SPAN, min(last * SPAN, B * T)):
        for h in range(H):
            at = (n * H + h) * d
            inverse = inverse_size(x, at, d, NORM_EPS, lanes, vectors)
            for c in range(0, d, len(lanes)):
                normed = inverse * load(x, at + c, lanes)
                opened = sigmoid(load(gate, at + c, lanes))
                store(out, at + c, normed * load(weight, h * d + c, lanes) * opened)


@jit
def _backward(first, last, lanes, vectors, grad_out, x, gate, weight, grad_x, grad_gate, grad_weight):  # pyright: ignore
    B, T, H, _ = x.shape
    d = len(lanes) * len(vectors)
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, B * T)):
            for h in range(H):
                at = (n * H + h) * d
                inverse = inverse_size(x, at, d, NORM_EPS, lanes, vectors)
                for c in range(0, d, len(lanes)):
                    normed = inverse * load(x, at + c, lanes)
                    opened = sigmoid(load(gate, at + c, lanes))
                    weighed = load(weight, h * d + c, lanes)
                    passed = load(grad_out, at + c, lanes) * opened
                    add(grad_weight, (item * H + h) * d + c, passed * normed, lanes)
                    grad_normed = passed * weighed
                    store(grad_gate, at + c, grad_normed * normed * (1 - opened))
                    store(grad_x, at + c, grad_normed)
                divide_back(grad_x, x, at, d, inverse, lanes, vectors)


def _items(x: Tensor) -> int:
    return -(-x.shape[0] * x.shape[1] // SPAN)


def _run(kernel: Any, x: Tensor, *arguments: Tensor) -> None:
    arrays = (tensor.numpy() for tensor in arguments)
    threads.run(kernel, _items(x), x.numel(), *split(x.shape[3]), *arrays)


def forward(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.gated_norm`` for the contract of a backend."""
    out = empty(x)
    _run(_forward, x, x, gate, *lent(weight), out)
    return out


def backward(x: Tensor, gate: Tensor, weight: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.gated_norm`` for the contract of a backend."""
    grad_x = empty(x)
    grad_gate = empty(x)
    grad_weight = x.new_zeros(_items(x), *weight.shape)
    _run(_backward, x, grad_out, x, gate, *lent(weight), grad_x, grad_gate, grad_weight)
    return grad_x, grad_gate, grad_weight.sum(dim=0)
