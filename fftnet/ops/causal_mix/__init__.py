"""Causal mixing: prefix Fourier transform, adaptive filter, modReLU and inverse in one operator.

``causal_mix`` is the only entry: it checks, casts and picks a backend.

A backend is a module in this folder with ``BLOCK`` (tokens between two checkpoints of the state) and two
functions on contiguous tensors of one dtype:

* ``forward(values, filter_, parameters, state, eps) -> (mixed, state, checkpoints)``, with
  ``checkpoints[:, n]`` the state before token ``n * BLOCK``;
* ``backward(values, filter_, parameters, checkpoints, grad_mixed, grad_state, eps)``, which returns the
  gradients ``(grad_values, grad_filter, grad_parameters, grad_state)``.

``reference`` and ``export`` have neither: they are functions of the arguments of ``causal_mix``, which
autograd can see through.
"""

from torch import Tensor, contiguous_format, empty_like

# An import of a submodule binds its name in this package: `torch`, `numba` and `triton` are the backends
# here, which is why PyTorch's own names are imported one by one above.
from fftnet.ops.causal_mix import export, reference
from fftnet.ops.causal_mix.parameters import HeadParameters
from fftnet.ops.checkpoints import check_checkpoints, flat_shape
from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, on_cpu, on_gpu
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.registration import register

__all__ = ["BACKENDS", "HeadParameters", "causal_mix"]

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
    "filter_": "B T H F",
    "decay": "H F",
    "frequency": "H F",
    "bias": "H F",
    "readout": "H F 2",
}
_STATE = "B F 2 H d"
_SIGNATURE = Signature("causal_mix", _INPUTS | {"state": _STATE})
_BACKWARD_SIGNATURE = Signature(
    "causal_mix_backward",
    _INPUTS | {"checkpoints": "B S", "grad_mixed": "B T H d", "grad_state": _STATE},
)


def causal_mix(
    values: Tensor,
    filter_: Tensor,
    parameters: HeadParameters,
    state: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Steps 1 and 3-5 of the causal layer (docs/maths.md): from values to mixed values, carrying a state.

    With ``lambda = exp(-decay + i frequency)``:
    ``Z_k(t) = lambda_k Z_k(t-1) + v(t)``, ``A_k = modReLU(filter_k(t) Z_k(t); bias_k)`` and
    ``y(t) = Re sum_k C_k A_k(t)``. The normalisation g belongs into the filter.

    Args:
        values: v, (B, T, H, d) of any floating dtype, T >= 1; float16 and bfloat16 are computed in float32.
        filter_: one real gain per token, head and bin, (B, T, H, F).
        parameters: of every head and bin.
        state: real and imaginary plane of Z before the first token, (B, F, 2, H, d).
        eps: magnitude below which modReLU stops normalising.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Mixed values (B, T, H, d) in the dtype of ``values`` and the state after the last token in float32
        (float64 for float64 values).

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, values, filter_, *parameters, state)
    if backend == "reference":
        return reference.causal_mix(values, filter_, parameters, state, eps)
    dtype = compute_dtype(values)
    tensors = [x.to(dtype).contiguous() for x in (values, filter_, *parameters, state)]
    if backend == "export":
        wide = HeadParameters(*tensors[2:6])
        mixed, last = export.causal_mix(tensors[0], tensors[1], wide, tensors[6], eps)
    else:
        mixed, last, _ = _operator(*tensors, eps, backend)
    return mixed.to(values.dtype), last


def _forward(
    values: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    readout: Tensor,
    state: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    module = BACKENDS.load(backend, values)
    parameters = HeadParameters(decay, frequency, bias, readout)
    mixed, last, checkpoints = module.forward(values, filter_, parameters, state, eps)
    return mixed, last, checkpoints.flatten(1)


def _fake(values, filter_, decay, frequency, bias, readout, state, eps, backend):  # pyright: ignore
    block = BACKENDS.load(backend, values).BLOCK
    checkpoints = state.new_empty(flat_shape(values, state, block))
    return empty_like(values), empty_like(state), checkpoints


def _backward(
    values: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    readout: Tensor,
    checkpoints: Tensor,
    grad_mixed: Tensor,
    grad_state: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = BACKENDS.load(backend, values)
    check_checkpoints("causal_mix_backward", checkpoints, values, grad_state, module.BLOCK)
    parameters = HeadParameters(decay, frequency, bias, readout)
    split = checkpoints.view(values.shape[0], -1, *grad_state.shape[1:])
    grad_values, grad_filter, grad_parameters, grad_start = module.backward(
        values, filter_, parameters, split, grad_mixed, grad_state, eps
    )
    return grad_values, grad_filter, *grad_parameters, grad_start


def _fake_backward(  # pyright: ignore
    values, filter_, decay, frequency, bias, readout, checkpoints, grad_mixed, grad_state, eps, backend
):
    block = BACKENDS.load(backend, values).BLOCK
    check_checkpoints("causal_mix_backward", checkpoints, values, grad_state, block)
    like = (values, filter_, decay, frequency, bias, readout, grad_state)
    return tuple(empty_like(x, memory_format=contiguous_format) for x in like)


_operator = register(
    "causal_mix",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: (*inputs[:6], outputs[2]),
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
