"""The convolution and the input gate before the prefix transform, in one operator.

``gated_conv`` is the only entry: it checks, casts and picks a backend.

``torch`` and ``reference`` are functions of its arguments, which autograd can see through. Any other backend
is a module in this folder with two functions on contiguous tensors of one dtype:

* ``forward(x, conv_weight, conv_state) -> values``;
* ``backward(x, conv_weight, conv_state, grad_values)``, which returns the gradients of the three tensors.
"""

from torch import Tensor, empty_like, promote_types

from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.convolution import add_state_gradient, new_state
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.gated_conv import eager, reference
from fftnet.ops.gated_conv.eager import causal_conv
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register

__all__ = ["BACKENDS", "causal_conv", "gated_conv"]


def _whole_vectors(x: Tensor, *others: Tensor | None) -> bool:
    return x.device.type == "cpu" and x.shape[2] // 2 % VECTOR_WIDTH == 0


def _has_two_halves(sizes: Sizes) -> str | None:
    return None if sizes["C"] % 2 == 0 else f"x holds keys, then values: C must be even, got {sizes['C']}"


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_whole_vectors,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": eager.gated_conv, "reference": reference.gated_conv}
_INPUTS = {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"}
_PAST = {"P": lambda sizes: sizes["W"] - 1}
_SIGNATURE = Signature("gated_conv", _INPUTS, derived=_PAST, rule=_has_two_halves)
_BACKWARD_SIGNATURE = Signature(
    "gated_conv_backward",
    _INPUTS | {"grad_values": "B T D", "grad_state": "B P C"},
    derived=_PAST | {"D": lambda sizes: sizes["C"] // 2},
    rule=_has_two_halves,
)


def gated_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Keys times values, both causally convolved: ``k(t) v(t)`` with ``[k, v] = causal_conv(x)``.

    Args:
        x: keys, then values, (B, T, C) with C = 2 D, T >= 1, of any floating dtype; float16 and bfloat16
            are computed in float32.
        conv_weight: one filter of W taps for each channel, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 tokens before the first, (B, P, C).
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Gated values (B, T, D), and the last P tokens for the call that continues, in the dtype of
        ``conv_state``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, x, conv_weight, conv_state)
    dtype = compute_dtype(x)
    wide = [tensor.to(dtype) for tensor in (x, conv_weight, conv_state)]
    if backend in _DIFFERENTIABLE:
        values, last = _DIFFERENTIABLE[backend](*wide)
    else:
        values, last = _operator(*(tensor.contiguous() for tensor in wide), backend)
    return values.to(promote_types(x.dtype, conv_weight.dtype)), last.to(conv_state.dtype)


def _forward(x: Tensor, conv_weight: Tensor, conv_state: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    values = BACKENDS.load(backend, x).forward(x, conv_weight, conv_state)
    return values, new_state(x, conv_state)


def _fake(x, conv_weight, conv_state, backend):  # pyright: ignore
    return x.new_empty((x.shape[0], x.shape[1], x.shape[2] // 2)), empty_like(conv_state)


def _backward(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, grad_values: Tensor, grad_state: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_weight, grad_past = BACKENDS.load(backend, x).backward(
        x, conv_weight, conv_state, grad_values
    )
    add_state_gradient(grad_state, grad_x, grad_past)
    return grad_x, grad_weight, grad_past


def _fake_backward(x, conv_weight, conv_state, grad_values, grad_state, backend):  # pyright: ignore
    return empty_like(x), empty_like(conv_weight), empty_like(conv_state)


_operator = register(
    "gated_conv",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: inputs[:3],
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
