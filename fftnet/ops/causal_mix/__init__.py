"""Causal mixing: prefix Fourier transform, adaptive filter, modReLU and inverse in one operator.

:func:`causal_mix` is the only entry. It casts, picks a backend and is a custom operator of PyTorch, so
``torch.compile`` and ``torch.export`` see one node with shapes and gradients.

A backend is a module with ``BLOCK`` (tokens between two checkpoints of the state) and two functions on
contiguous tensors of one dtype:

* ``forward(v, filter_, decay, frequency, bias, mixing, state, floor) -> (y, state, checkpoints)``, with
  ``checkpoints[:, n]`` the state before token ``n * BLOCK``;
* ``backward(grad_y, grad_state, v, filter_, decay, frequency, bias, mixing, checkpoints, floor)``, which
  returns the gradients of the seven tensors in the order of ``forward``.
"""

import importlib
from types import ModuleType

import torch as pytorch
from torch import Tensor

from fftnet.ops import dispatch as backends
from fftnet.ops import reference
from fftnet.ops.numerics import compute_dtype

BACKENDS = {
    "fft": "fftnet.ops.causal_mix.torch",
    "numba": "fftnet.ops.causal_mix.numba",
    "triton": "fftnet.ops.causal_mix.triton",
}
"""Backend name to module, imported when first used; ``reference`` and ``auto`` are understood as well."""


def _module(backend: str) -> ModuleType:
    return importlib.import_module(BACKENDS[backend])


def causal_mix(
    v_BTHd: Tensor,
    filter_BTHF: Tensor,
    decay_HF: Tensor,
    frequency_HF: Tensor,
    bias_HF: Tensor,
    mixing_HF2: Tensor,
    state_BF2Hd: Tensor,
    *,
    floor: float,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Steps 1 and 3-5 of the causal layer (docs/maths.md): from values to mixed values, carrying a state.

    With ``lambda = exp(-decay + i frequency)``:
    ``Z_k(t) = lambda_k Z_k(t-1) + v(t)``, ``A_k = modReLU(filter_k(t) Z_k(t); bias_k)`` and
    ``y(t) = Re sum_k C_k A_k(t)``. The normalisation g belongs into the filter.

    Args:
        v_BTHd: values of any floating dtype, T >= 1; float16 and bfloat16 are computed in float32.
        filter_BTHF: one real gain per token, head and bin.
        decay_HF: a >= 0 per token.
        frequency_HF: w in radians per token.
        bias_HF: modReLU bias.
        mixing_HF2: real and imaginary part of C.
        state_BF2Hd: real and imaginary plane of Z before the first token.
        floor: magnitude below which modReLU stops normalising.
        backend: ``auto``, ``reference``, or a name in ``BACKENDS``.

    Returns:
        Mixed values (B, T, H, d) in the dtype of ``v_BTHd`` and the state after the last token in float32
        (float64 for float64 values).

    Raises:
        ValueError: if T is 0, or the backend is unknown or can't run here.
    """
    if v_BTHd.shape[1] == 0:
        raise ValueError("causal mixing needs at least one token, got a sequence of length 0")
    backend = backends.resolve(backend, BACKENDS, v_BTHd.device)
    tensors = (v_BTHd, filter_BTHF, decay_HF, frequency_HF, bias_HF, mixing_HF2, state_BF2Hd)
    if backend == "reference":
        return reference.causal_mix(*tensors, floor)
    dtype = compute_dtype(v_BTHd)
    v, filter_, decay, frequency, bias, mixing, state = (x.to(dtype).contiguous() for x in tensors)
    y, last, _ = _mix(v, filter_, decay, frequency, bias, mixing, state, floor, backend)
    return y.to(v_BTHd.dtype), last


@pytorch.library.custom_op("fftnet::causal_mix", mutates_args=())
def _mix(
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    state: Tensor,
    floor: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    y, last, checkpoints = _module(backend).forward(v, filter_, decay, frequency, bias, mixing, state, floor)
    # A dimension that is 1 for short texts would cost torch.compile a graph of its own, hence the flattening.
    return y, last, checkpoints.flatten(1)


@_mix.register_fake
def _(v, filter_, decay, frequency, bias, mixing, state, floor, backend):  # pyright: ignore
    block = _module(backend).BLOCK
    count = (v.shape[1] + block - 1) // block
    _, bins, _, heads, width = state.shape
    checkpoints = state.new_empty((state.shape[0], count * bins * 2 * heads * width))
    return pytorch.empty_like(v), pytorch.empty_like(state), checkpoints


@pytorch.library.custom_op("fftnet::causal_mix_backward", mutates_args=())
def _mix_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    checkpoints: Tensor,
    floor: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _module(backend).backward(
        grad_y.contiguous(),
        grad_state.contiguous(),
        *(v, filter_, decay, frequency, bias, mixing),
        checkpoints.view(v.shape[0], -1, *grad_state.shape[1:]),
        floor,
    )


@_mix_backward.register_fake
def _(grad_y, grad_state, v, filter_, decay, frequency, bias, mixing, checkpoints, floor, backend):  # pyright: ignore
    like = (v, filter_, decay, frequency, bias, mixing, grad_state)
    return tuple(pytorch.empty_like(x, memory_format=pytorch.contiguous_format) for x in like)


def _setup_context(ctx, inputs, output) -> None:  # pyright: ignore
    *tensors, _, floor, backend = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.floor, ctx.backend = floor, backend


def _autograd(ctx, grad_y, grad_state, _):  # pyright: ignore
    grads = _mix_backward(grad_y, grad_state, *ctx.saved_tensors, ctx.floor, ctx.backend)
    return *grads, None, None


_mix.register_autograd(_autograd, setup_context=_setup_context)
