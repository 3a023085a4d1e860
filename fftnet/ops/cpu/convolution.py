"""Depth-wise causal convolution of one vector of channels at one token, and its gradients.

See ``fftnet.ops.cpu`` for how to read kernels. The kernels get the filters transposed, (W, C), so that a
tap's weights of neighbouring channels are neighbours; and W as the length of a tuple, ``taps``, which the
compiler knows, so that it unrolls the loop over taps.
"""

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.vector import load, store

BLOCK = 64
"""Tokens that one vector of channels walks before the next does: channels of a token are neighbours in
memory, so the next vector finds in the cache what was fetched for the first."""


@jit
def convolve(x, weight, past, b, t, c, lanes, taps):  # pyright: ignore
    """``sum_i weight[W-1-i] * x(t-i)`` for the channels from c on."""
    T = x.shape[1]
    C = x.shape[2]
    P = len(taps) - 1
    here = (b * T + t) * C + c
    y = load(weight, P * C + c, lanes) * load(x, here, lanes)
    for i in range(1, len(taps)):
        # Before the first token stand those of the state: x(-1) is its last.
        earlier = load(x, here - i * C, lanes) if i <= t else load(past, (b * P + P + t - i) * C + c, lanes)
        y = y + load(weight, (P - i) * C + c, lanes) * earlier
    return y


@jit
def convolve_back(  # pyright: ignore
    grad, x, weight, past, grad_x, grad_past, grad_weight, b, t, c, lanes, taps
):
    """Add what ``grad``, the gradient of the convolution at t, gives to tokens, state and weights."""
    T = x.shape[1]
    C = x.shape[2]
    P = len(taps) - 1
    here = (b * T + t) * C + c
    newest = (b * len(taps) + P) * C + c
    # The newest tap is the first to reach token t as time goes on, so it sets where the others add.
    store(grad_x, here, load(weight, P * C + c, lanes) * grad)
    store(grad_weight, newest, load(grad_weight, newest, lanes) + grad * load(x, here, lanes))
    for i in range(1, len(taps)):
        w = load(weight, (P - i) * C + c, lanes)
        tap = newest - i * C
        if i <= t:
            at = here - i * C
            store(grad_x, at, load(grad_x, at, lanes) + w * grad)
            store(grad_weight, tap, load(grad_weight, tap, lanes) + grad * load(x, at, lanes))
        else:
            at = (b * P + P + t - i) * C + c
            store(grad_past, at, load(grad_past, at, lanes) + w * grad)
            store(grad_weight, tap, load(grad_weight, tap, lanes) + grad * load(past, at, lanes))
