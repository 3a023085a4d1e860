"""The CPU kernels of the gated convolution: one pass forward, one pass backward.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one vector of channels of one row of the
batch. The result is the only tensor of length T: backward computes the convolved keys and values again.
"""

from torch import Tensor

from fftnet.ops.cpu import BLOCK
from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.convolution import convolve, convolve_back, run, run_backward
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.vector import load, store


@jit
def _forward(first, last, lanes, taps, inputs, values):  # pyright: ignore
    _, T, D = values.shape
    G = D // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    # v <- k v (docs/maths.md, section 6): channels of keys first, then D channels of values.
                    key = convolve(inputs, b, t, c, lanes, taps)
                    value = convolve(inputs, b, t, D + c, lanes, taps)
                    store(values, (b, t, c), key * value)


@jit
def _backward(first, last, lanes, taps, inputs, grad_values, grads):  # pyright: ignore
    _, T, D = grad_values.shape
    G = D // len(lanes)  # vectors a row of the batch: item = b * G + g
    for b in range(first // G, (last + G - 1) // G):
        for t0 in range(0, T, BLOCK):
            for g in range(max(first - b * G, 0), min(last - b * G, G)):
                c = g * len(lanes)
                for t in range(t0, min(t0 + BLOCK, T)):
                    grad = load(grad_values, (b, t, c), lanes)
                    key = convolve(inputs, b, t, c, lanes, taps)
                    value = convolve(inputs, b, t, D + c, lanes, taps)
                    convolve_back(grad * value, inputs, grads, b, t, c, lanes, taps)
                    convolve_back(grad * key, inputs, grads, b, t, D + c, lanes, taps)


def forward(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    width = x.shape[2] // 2
    values = empty(x, *x.shape[:2], width)
    run(_forward, (x, conv_weight, conv_state), width, width, values)
    return values


def backward(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, grad_values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    width = x.shape[2] // 2
    return run_backward(_backward, (x, conv_weight, conv_state), width, width, grad_values)
