"""Addresses of a keyed mixer: its complex write keys and read filters, from what the layer projects.

``addresses`` is the only entry: it checks, casts and picks a backend.

``torch`` and ``reference`` are functions of its arguments, which autograd can see through. Any other backend
is a module in this folder with two functions on contiguous tensors of one dtype, where ``inputs`` are the
seven tensors of ``addresses``:

* ``forward(*inputs, eps) -> (key, filter_)``;
* ``backward(*inputs, grad_key, grad_filter, eps)``, which returns the gradients of the seven.
"""

from torch import Tensor, contiguous_format, empty_like

from fftnet.ops.addresses import eager, reference
from fftnet.ops.checks import Signature
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register

__all__ = ["BACKENDS", "addresses"]


def _whole_vectors(raw_key: Tensor, *others: Tensor | None) -> bool:
    return raw_key.device.type == "cpu" and raw_key.shape[4] % VECTOR_WIDTH == 0


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_whole_vectors,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": eager.addresses, "reference": reference.addresses}
_INPUTS = {
    "raw_key": "B T H 2 F",
    "raw_filter": "B T H 2 F",
    "modulation": "B T H 2 F",
    "base_key": "H 2 F",
    "base_filter": "H 2 F",
    "bias": "H F",
    "gain": "H F",
}
_SIGNATURE = Signature("addresses", _INPUTS)
_BACKWARD_SIGNATURE = Signature(
    "addresses_backward", _INPUTS | {"grad_key": "B T H 2 F", "grad_filter": "B T H 2 F"}
)


def addresses(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Write keys and read filters (docs/maths.md, section 3), complex numbers as real and imaginary plane.

    With ``|u|_F = sqrt(mean_k |u_k|^2)``, the size of a head's F numbers:
    ``key_k = gain_k (base_key_k + raw_key_k / |raw_key|_F)`` and
    ``filter_k = modReLU(base_filter_k + tanh(modulation_k) + raw_filter_k / |raw_filter|_F; bias_k)``.

    Args:
        raw_key: the token's own part of the keys, (B, T, H, 2, F) of any floating dtype, T >= 1;
            float16 and bfloat16 are computed in float32.
        raw_filter: the token's own part of the filters, likewise.
        modulation: the context's part of the filters, likewise; tanh is taken of each number.
        base_key: what every token writes with, (H, 2, F).
        base_filter: the paper's base filter, (H, 2, F).
        bias: of modReLU, (H, F).
        gain: of the prefix transform, (H, F).
        eps: magnitude below which modReLU stops normalising.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Keys and filters (B, T, H, 2, F) in the dtype of ``raw_key``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    tensors = (raw_key, raw_filter, modulation, base_key, base_filter, bias, gain)
    backend = BACKENDS.select(_SIGNATURE, backend, *tensors)
    dtype = compute_dtype(raw_key)
    wide = [x.to(dtype) for x in tensors]
    if backend in _DIFFERENTIABLE:
        key, filter_ = _DIFFERENTIABLE[backend](*wide, eps=eps)
    else:
        key, filter_ = _operator(*(x.contiguous() for x in wide), eps, backend)
    return key.to(raw_key.dtype), filter_.to(raw_key.dtype)


def _forward(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    module = BACKENDS.load(backend, raw_key)
    return module.forward(raw_key, raw_filter, modulation, base_key, base_filter, bias, gain, eps)


def _fake(  # pyright: ignore
    raw_key, raw_filter, modulation, base_key, base_filter, bias, gain, eps, backend
):
    return tuple(empty_like(raw_key, memory_format=contiguous_format) for _ in range(2))


def _backward(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    grad_key: Tensor,
    grad_filter: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (raw_key, raw_filter, modulation, base_key, base_filter, bias, gain)
    return BACKENDS.load(backend, raw_key).backward(*inputs, grad_key, grad_filter, eps)


def _fake_backward(  # pyright: ignore
    raw_key,
    raw_filter,
    modulation,
    base_key,
    base_filter,
    bias,
    gain,
    grad_key,
    grad_filter,
    eps,
    backend,
):
    inputs = (raw_key, raw_filter, modulation, base_key, base_filter, bias, gain)
    return tuple(empty_like(x, memory_format=contiguous_format) for x in inputs)


_operator = register(
    "addresses",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: inputs[:7],
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
