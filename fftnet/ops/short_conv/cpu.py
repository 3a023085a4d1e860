"""The CPU kernels of the short convolution: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row of the
batch; a vector holds values or keys, never both. Backward computes the convolved values again.
"""

from math import gcd

from torch import Tensor

from fftnet.ops.cpu import BLOCK
from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.convolution import convolve, convolve_back, run, run_backward
from fftnet.ops.cpu.functions import sigmoid
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.vector import load, store


@jit
def _forward(first, last, lanes, taps, inputs, values, keys):  # pyright: ignore
    _, T, C = inputs[0].shape
    D = values.shape[2]
    G = C // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    y = convolve(inputs, b, t, c, lanes, taps)
                    # v = silu(conv(W_v x)) and u = conv(W_kappa x): docs/maths.md, section 3, step 1.
                    if c < D:
                        store(values, (b, t, c), y * sigmoid(y))
                    else:
                        store(keys, (b, t, c - D), y)


@jit
def _backward(first, last, lanes, taps, inputs, grad_values, grad_keys, grads):  # pyright: ignore
    _, T, C = inputs[0].shape
    D = grad_values.shape[2]
    G = C // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    if c < D:
                        y = convolve(inputs, b, t, c, lanes, taps)
                        gate = sigmoid(y)
                        # silu(y) = y sigmoid(y), and sigmoid' = sigmoid (1 - sigmoid).
                        grad = gate * (1 + y * (1 - gate)) * load(grad_values, (b, t, c), lanes)
                    else:
                        grad = load(grad_keys, (b, t, c - D), lanes)
                    convolve_back(grad, inputs, grads, b, t, c, lanes, taps)


def forward(x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    channels = x.shape[2]
    values = empty(x, *x.shape[:2], width)
    keys = empty(x, *x.shape[:2], channels - width)
    inputs = (x, conv_weight, conv_state)
    run(_forward, inputs, gcd(width, channels - width), values, keys)
    return values, keys


def backward(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, grad_values: Tensor, grad_keys: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    inputs = (x, conv_weight, conv_state)
    return run_backward(_backward, inputs, gcd(width, x.shape[2] - width), grad_values, grad_keys)
