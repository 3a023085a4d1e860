"""The short convolution before a keyed mixer: values and write keys that see the tokens just before.

``short_conv`` is the only entry: it checks, casts and picks a backend.

``torch`` and ``reference`` are functions of its arguments, which autograd can see through. Any other backend
is a module in this folder with two functions on contiguous tensors of one dtype:

* ``forward(x, conv_weight, conv_state, width) -> (values, keys)``;
* ``backward(x, conv_weight, conv_state, grad_values, grad_keys, width)``, which returns the gradients of the
  three tensors.
"""

from torch import Tensor, contiguous_format, empty_like, promote_types

from fftnet.ops.checks import Signature
from fftnet.ops.convolution import add_state_gradient, new_state
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register
from fftnet.ops.short_conv import eager, reference

__all__ = ["BACKENDS", "short_conv"]


def _whole_vectors(x: Tensor, *others: Tensor | None) -> bool:
    return x.device.type == "cpu" and x.shape[2] % VECTOR_WIDTH == 0


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_whole_vectors,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": eager.short_conv, "reference": reference.short_conv}
_INPUTS = {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"}
_PAST = {"P": lambda sizes: sizes["W"] - 1}
_SIGNATURE = Signature("short_conv", _INPUTS, derived=_PAST)
_BACKWARD_SIGNATURE = Signature(
    "short_conv_backward",
    _INPUTS | {"grad_values": "B T D", "grad_keys": "B T K", "grad_state": "B P C"},
    derived=_PAST | {"K": lambda sizes: sizes["C"] - sizes["D"]},
)


def short_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, *, width: int, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth-wise causal convolution ``y(t) = sum_i weight[W-1-i] x(t-i)``; the values pass through SiLU.

    Args:
        x: values, then keys, (B, T, C), T >= 1, of any floating dtype; float16 and bfloat16 are computed in
            float32.
        conv_weight: one filter of W taps for each channel, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 tokens before the first, (B, P, C).
        width: D, how many of the channels are values; below C.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Values (B, T, D), keys (B, T, C - D), and the last P tokens for the call that continues, in the dtype
        of ``conv_state``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    if not 0 < width < x.shape[-1]:
        raise ValueError(f"short_conv: width must lie between 0 and C = {x.shape[-1]}, got {width}")
    backend = BACKENDS.select(_SIGNATURE, backend, x, conv_weight, conv_state)
    if backend not in _DIFFERENTIABLE and width % VECTOR_WIDTH != 0:
        backend = "torch"
    dtype = compute_dtype(x)
    wide, weight, past = (tensor.to(dtype) for tensor in (x, conv_weight, conv_state))
    if backend in _DIFFERENTIABLE:
        values, keys, last = _DIFFERENTIABLE[backend](wide, weight, past, width)
    else:
        tensors = (tensor.contiguous() for tensor in (wide, weight, past))
        values, keys, last = _operator(*tensors, width, backend)
    promoted = promote_types(x.dtype, conv_weight.dtype)
    return values.to(promoted), keys.to(promoted), last.to(conv_state.dtype)


def _forward(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, width: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    _check_width(x, width)
    values, keys = BACKENDS.load(backend, x).forward(x, conv_weight, conv_state, width)
    return values, keys, new_state(x, conv_state)


def _fake(x, conv_weight, conv_state, width, backend):  # pyright: ignore
    _check_width(x, width)
    batch, tokens, channels = x.shape
    values = x.new_empty((batch, tokens, width))
    return values, x.new_empty((batch, tokens, channels - width)), empty_like(conv_state)


def _backward(
    x: Tensor,
    conv_weight: Tensor,
    conv_state: Tensor,
    grad_values: Tensor,
    grad_keys: Tensor,
    grad_state: Tensor,
    width: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_width(x, width)
    if grad_values.shape[2] != width:
        raise ValueError(
            f"short_conv_backward: grad_values must have {width} channels, got {grad_values.shape[2]}"
        )
    grad_x, grad_weight, grad_past = BACKENDS.load(backend, x).backward(
        x, conv_weight, conv_state, grad_values, grad_keys, width
    )
    add_state_gradient(grad_state, grad_x, grad_past)
    return grad_x, grad_weight, grad_past


def _fake_backward(  # pyright: ignore
    x, conv_weight, conv_state, grad_values, grad_keys, grad_state, width, backend
):
    return tuple(empty_like(t, memory_format=contiguous_format) for t in (x, conv_weight, conv_state))


def _check_width(x: Tensor, width: int) -> None:
    """For the registered operator, which anyone can call."""
    if not 0 < width < x.shape[2] or width % VECTOR_WIDTH != 0:
        raise ValueError(
            f"short_conv: width must be a multiple of {VECTOR_WIDTH} between 0 and C = {x.shape[2]}, "
            f"got {width}"
        )


_operator = register(
    "short_conv",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: inputs[:3],
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
