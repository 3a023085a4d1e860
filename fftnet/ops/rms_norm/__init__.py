"""RMSNorm over the channels of a token, in one operator.

``rms_norm`` is the only entry: it checks, casts and picks a backend. PyTorch has a kernel of its own on CUDA
devices; on CPUs it makes a dozen passes over memory forward and backward, with which a training step of
bidirectional layers takes an eighth longer.

``torch`` and ``reference`` are functions of its arguments, which autograd can see through. Any other backend
is a module in this folder with two functions on contiguous tensors of one dtype:

* ``forward(x, weight) -> out``;
* ``backward(x, weight, grad_out)``, which returns the gradients of the two tensors.
"""

from torch import Tensor, contiguous_format, empty_like

from fftnet.ops.checks import Signature
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register
from fftnet.ops.rms_norm import eager, reference

__all__ = ["BACKENDS", "rms_norm"]


def _whole_vectors(x: Tensor, *others: Tensor | None) -> bool:
    return x.device.type == "cpu" and x.shape[2] % VECTOR_WIDTH == 0


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_whole_vectors,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": eager.rms_norm, "reference": reference.rms_norm}
_INPUTS = {"x": "B T D", "weight": "D"}
_SIGNATURE = Signature("rms_norm", _INPUTS)
_BACKWARD_SIGNATURE = Signature("rms_norm_backward", _INPUTS | {"grad_out": "B T D"})


def rms_norm(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """``weight x / rms(x)``, with the root mean square over the channels.

    Args:
        x: (B, T, D) of any floating dtype, T >= 1.
        weight: (D,).
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        (B, T, D) in the dtype of ``x``.

    Raises:
        ValueError: if a tensor does not fit the other, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, x, weight)
    if backend in _DIFFERENTIABLE:
        return _DIFFERENTIABLE[backend](x, weight)
    dtype = compute_dtype(x)
    tensors = [tensor.to(dtype).contiguous() for tensor in (x, weight)]
    return _operator(*tensors, backend).to(x.dtype)


def _forward(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    return BACKENDS.load(backend, x).forward(x, weight)


def _fake(x, weight, backend):  # pyright: ignore
    return empty_like(x, memory_format=contiguous_format)


def _backward(x: Tensor, weight: Tensor, grad_out: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return BACKENDS.load(backend, x).backward(x, weight, grad_out)


def _fake_backward(x, weight, grad_out, backend):  # pyright: ignore
    return tuple(empty_like(t, memory_format=contiguous_format) for t in (x, weight))


_operator = register(
    "rms_norm",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: inputs[:2],
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
