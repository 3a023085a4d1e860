"""Keyed mixing: the prefix transform of keyed values and its read-out through a complex filter.

``keyed_mix`` is the only entry: it checks, casts and picks a backend.

A backend is a module in this folder with ``BLOCK`` (tokens between two checkpoints of the state) and two
functions on contiguous tensors of one dtype:

* ``forward(values, key, filter_, clock, decay, frequency, state) -> (mixed, state, checkpoints)``, with
  ``checkpoints[:, n]`` the state before token ``n * BLOCK``;
* ``backward(values, key, filter_, clock, decay, frequency, checkpoints, last, grad_mixed, grad_state)``, with
  ``last`` the state after the last token, which returns the gradients of the seven arguments of ``forward``.

``reference`` and ``export`` have neither: they are functions of the arguments of ``keyed_mix``, which
autograd can see through.
"""

from torch import Tensor, contiguous_format, empty_like

# An import of a submodule binds its name in this package: `torch`, `numba` and `triton` are the backends
# here, which is why PyTorch's own names are imported one by one above.
from fftnet.ops.checkpoints import check_checkpoints, flat_shape
from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, on_cpu, on_gpu
from fftnet.ops.keyed_mix import export, reference
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register

__all__ = ["BACKENDS", "keyed_mix"]

BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=on_cpu,
    triton=on_gpu,
    reference=anything,
    export=anything,
)
_INPUTS = {
    "values": "B T H d",
    "key": "B T H 2 F",
    "filter_": "B T H 2 F",
    "clock": "B T H",
    "decay": "H F",
    "frequency": "H F",
}
_STATE = "B H 2 F d"
_SIGNATURE = Signature("keyed_mix", _INPUTS | {"state": _STATE})
_BACKWARD_SIGNATURE = Signature(
    "keyed_mix_backward",
    _INPUTS | {"checkpoints": "B S", "last": _STATE, "grad_mixed": "B T H d", "grad_state": _STATE},
)


def keyed_mix(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Prefix transform of keyed values, read through a complex filter (docs/maths.md, section 3).

    ``Z_k(t) = exp(clock(t) (-decay_k + i frequency_k)) Z_k(t-1) + key_k(t) v(t)`` and
    ``y(t) = Re sum_k filter_k(t) Z_k(t)``, for every head.

    Args:
        values: v, (B, T, H, d) of any floating dtype, T >= 1; float16 and bfloat16 are computed in float32.
        key: the complex write key of every bin as real and imaginary plane, (B, T, H, 2, F).
        filter_: the complex read filter of every bin, likewise.
        clock: time that passes at each token, >= 0, (B, T, H); 1 is one token.
        decay: a >= 0 per unit of the clock, (H, F).
        frequency: radians per unit of the clock, (H, F).
        state: real and imaginary plane of Z before the first token, (B, H, 2, F, d).
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Mixed values (B, T, H, d) in the dtype of ``values`` and the state after the last token in float32
        (float64 for float64 values).

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    tensors = (values, key, filter_, clock, decay, frequency, state)
    backend = BACKENDS.select(_SIGNATURE, backend, *tensors)
    if backend == "reference":
        return reference.keyed_mix(*tensors)
    dtype = compute_dtype(values)
    tensors = tuple(x.to(dtype).contiguous() for x in tensors)
    if backend == "export":
        mixed, last = export.keyed_mix(*tensors)
    else:
        mixed, last, _ = _operator(*tensors, backend)
    return mixed.to(values.dtype), last


def _forward(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    module = BACKENDS.load(backend, values)
    mixed, last, checkpoints = module.forward(values, key, filter_, clock, decay, frequency, state)
    return mixed, last, checkpoints.flatten(1)


def _fake(values, key, filter_, clock, decay, frequency, state, backend):  # pyright: ignore
    block = BACKENDS.load(backend, values).BLOCK
    checkpoints = state.new_empty(flat_shape(values, state, block))
    return empty_like(values), empty_like(state), checkpoints


def _backward(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    checkpoints: Tensor,
    last: Tensor,
    grad_mixed: Tensor,
    grad_state: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = BACKENDS.load(backend, values)
    check_checkpoints("keyed_mix_backward", checkpoints, values, grad_state, module.BLOCK)
    split = checkpoints.view(values.shape[0], -1, *grad_state.shape[1:])
    return module.backward(values, key, filter_, clock, decay, frequency, split, last, grad_mixed, grad_state)


def _fake_backward(  # pyright: ignore
    values, key, filter_, clock, decay, frequency, checkpoints, last, grad_mixed, grad_state, backend
):
    block = BACKENDS.load(backend, values).BLOCK
    check_checkpoints("keyed_mix_backward", checkpoints, values, grad_state, block)
    like = (values, key, filter_, clock, decay, frequency, grad_state)
    return tuple(empty_like(x, memory_format=contiguous_format) for x in like)


_operator = register(
    "keyed_mix",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: (*inputs[:6], outputs[2], outputs[1]),
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
