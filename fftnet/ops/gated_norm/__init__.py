"""Read-out norm and output gate of a keyed mixer, in one operator.

``gated_norm`` is the only entry: it checks, casts and picks a backend.

``torch`` and ``reference`` are functions of its arguments, which autograd can see through. Any other backend
is a module in this folder with two functions on contiguous tensors of one dtype:

* ``forward(x, gate, weight) -> out``;
* ``backward(x, gate, weight, grad_out)``, which returns the gradients of the three tensors.
"""

from torch import Tensor, contiguous_format, empty_like

from fftnet.ops.checks import Signature
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.gated_norm import eager, reference
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register

__all__ = ["BACKENDS", "gated_norm"]


def _whole_vectors(x: Tensor, *others: Tensor | None) -> bool:
    return x.device.type == "cpu" and x.shape[3] % VECTOR_WIDTH == 0


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_whole_vectors,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": eager.gated_norm, "reference": reference.gated_norm}
_INPUTS = {"x": "B T H d", "gate": "B T H d", "weight": "H d"}
_SIGNATURE = Signature("gated_norm", _INPUTS)
_BACKWARD_SIGNATURE = Signature("gated_norm_backward", _INPUTS | {"grad_out": "B T H d"})


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """``weight x / rms(x) sigmoid(gate)``, with the root mean square over the channels of a head.

    Args:
        x: (B, T, H, d) of any floating dtype, T >= 1; float16 and bfloat16 are computed in float32.
        gate: likewise.
        weight: (H, d).
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        (B, T, H, d) in the dtype of ``x``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, x, gate, weight)
    dtype = compute_dtype(x)
    wide = [tensor.to(dtype) for tensor in (x, gate, weight)]
    if backend in _DIFFERENTIABLE:
        return _DIFFERENTIABLE[backend](*wide).to(x.dtype)
    return _operator(*(tensor.contiguous() for tensor in wide), backend).to(x.dtype)


def _forward(x: Tensor, gate: Tensor, weight: Tensor, backend: str) -> Tensor:
    return BACKENDS.load(backend, x).forward(x, gate, weight)


def _fake(x, gate, weight, backend):  # pyright: ignore
    return empty_like(x, memory_format=contiguous_format)


def _backward(
    x: Tensor, gate: Tensor, weight: Tensor, grad_out: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return BACKENDS.load(backend, x).backward(x, gate, weight, grad_out)


def _fake_backward(x, gate, weight, grad_out, backend):  # pyright: ignore
    return tuple(empty_like(t, memory_format=contiguous_format) for t in (x, gate, weight))


_operator = register(
    "gated_norm",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: inputs[:3],
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
