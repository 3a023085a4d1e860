"""Depth-wise causal convolution of one vector of channels at one token, and its gradients.

See ``fftnet.ops.cpu`` for how to read kernels. ``inputs`` are the tokens (B, T, C); the filters transposed,
(W, C), so that weights of neighbouring channels are neighbours; and the P = W - 1 tokens before the first,
(B, P, C). ``taps`` tells W as the length of a tuple, which the compiler knows, so that it unrolls the loop.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.norm import add
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store


@jit
def convolve(inputs, b, t, c, lanes, taps):  # pyright: ignore
    """``sum_i weight[W-1-i] * x(t-i)`` for the channels from c on."""
    x, weight, past = inputs
    P = len(taps) - 1
    y = load(weight, (P, c), lanes) * load(x, (b, t, c), lanes)
    for i in range(1, len(taps)):
        # The tokens of the state come before the first: x(-1) is its last.
        earlier = load(x, (b, t - i, c), lanes) if i <= t else load(past, (b, P + t - i, c), lanes)
        y = y + load(weight, (P - i, c), lanes) * earlier
    return y


@jit
def convolve_back(grad, inputs, grads, b, t, c, lanes, taps):  # pyright: ignore
    """Add to ``grads`` what follows from ``grad`` at t; filters have one sum a row, (B, W, C)."""
    x, weight, past = inputs
    grad_x, grad_weight, grad_past = grads
    P = len(taps) - 1
    # The newest tap is the first to reach token t as time goes on, so it sets the sum that others add to.
    store(grad_x, (b, t, c), load(weight, (P, c), lanes) * grad)
    add(grad_weight, (b, P, c), grad * load(x, (b, t, c), lanes), lanes)
    # Older taps: their tokens lie in x, or in the state if the text has just begun.
    for i in range(1, len(taps)):
        scaled = load(weight, (P - i, c), lanes) * grad
        if i <= t:
            add(grad_x, (b, t - i, c), scaled, lanes)
            add(grad_weight, (b, P - i, c), grad * load(x, (b, t - i, c), lanes), lanes)
        else:
            add(grad_past, (b, P + t - i, c), scaled, lanes)
            add(grad_weight, (b, P - i, c), grad * load(past, (b, P + t - i, c), lanes), lanes)


def run(kernel: Any, inputs: tuple[Tensor, ...], width: int, *arguments: Any) -> None:
    """Run a kernel whose work items are vectors of channels, each within a multiple of ``width``."""
    x, weight, past = inputs
    lanes = widest_lanes(width)
    items = x.shape[0] * (x.shape[2] // len(lanes))
    transposed = (x, weight.T.contiguous(), past)
    threads.run(kernel, items, x.numel(), lanes, (0,) * weight.shape[1], transposed, *arguments)


def run_backward(
    kernel: Any, inputs: tuple[Tensor, ...], width: int, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a kernel that adds gradients to those of the inputs, and return these."""
    x, weight, past = inputs
    grad_x = empty(x)
    grad_past = torch.zeros_like(past)
    # One sum a row of the batch, since rows are done by different threads.
    grad_weight = x.new_zeros(x.shape[0], weight.shape[1], x.shape[2])
    run(kernel, inputs, width, *arguments, (grad_x, grad_weight, grad_past))
    return grad_x, grad_weight.sum(dim=0).T.contiguous(), grad_past
