"""Bidirectional mixing: Fourier transform, filter, modReLU and inverse in one operator.

:func:`spectral_mix` is the only entry. It casts, picks a backend and is a custom operator of PyTorch, so
``torch.compile`` and ``torch.export`` see one node with shapes and gradients, and no complex tensor.

A backend is a module with two functions on contiguous tensors of one dtype:

* ``forward(x, filter_, bias, floor) -> (y, spectrum)``, with the orthonormal half spectrum of x as real and
  imaginary part, channels before bins: (B, D, F, 2);
* ``backward(grad_y, spectrum, filter_, bias, floor)``, which returns the gradients of the three tensors.

Backward is a forward: the adjoint of the inverse transform is the transform with the inner bins counted twice
(they stand for two bins of the full spectrum each), the adjoint of the transform is the inverse with them
counted half, and filter and modReLU act within a bin. So the weights cancel on the way to x and are left over
in the gradients of filter and bias only: :func:`count_bins`.
"""

import importlib
from types import ModuleType

import torch as pytorch
from torch import Tensor

from fftnet.ops import dispatch as backends
from fftnet.ops import reference
from fftnet.ops.numerics import PAPER_FLOOR, compute_dtype

BACKENDS = {"fft": "fftnet.ops.spectral_mix.torch", "numba": "fftnet.ops.spectral_mix.numba"}
"""Backend name to module, imported when first used; ``reference`` and ``auto`` are understood as well."""


def _module(backend: str) -> ModuleType:
    return importlib.import_module(BACKENDS[backend])


def count_bins(sums_F: Tensor, num_tokens: int) -> Tensor:
    """Double in place, along the last dimension, the inner bins: all but DC and, for even T, Nyquist."""
    sums_F[..., 1 : (num_tokens + 1) // 2] *= 2
    return sums_F


def spectral_mix(
    x_BTD: Tensor,
    filter_BHF: Tensor,
    bias_HF: Tensor,
    *,
    floor: float = PAPER_FLOOR,
    backend: str = "auto",
) -> Tensor:
    """Steps 1 and 4-7 of the published layer (docs/maths.md): from tokens to mixed tokens.

    ``X = rfft(x)``, ``A = modReLU(filter X; bias)``, ``y = irfft(A)``, orthonormal, over the tokens. First
    derivatives only: where a second one is needed, take ``backend="reference"`` or the modules one by one.

    Args:
        x_BTD: tokens of any floating dtype, T >= 1; float16 and bfloat16 are computed in float32.
        filter_BHF: one real gain per sample, head and bin, F = T // 2 + 1.
        bias_HF: modReLU bias.
        floor: magnitude below which modReLU stops normalising.
        backend: ``auto``, ``reference``, or a name in ``BACKENDS``.

    Returns:
        Mixed tokens (B, T, D) in the dtype of ``x_BTD``.

    Raises:
        ValueError: if T is 0, H does not divide D, F is not T // 2 + 1, or the backend is unknown or can't
            run here.
    """
    tokens, width = x_BTD.shape[1:]
    heads, bins = filter_BHF.shape[1:]
    if tokens == 0:
        raise ValueError("the Fourier transform needs at least one token, got a sequence of length 0")
    if width % heads:
        raise ValueError(f"num_heads={heads} must divide the width {width}")
    if not bins == bias_HF.shape[1] == tokens // 2 + 1:
        sizes = f"the filter has {bins} and the bias {bias_HF.shape[1]}"
        raise ValueError(f"{tokens} tokens have {tokens // 2 + 1} bins, but {sizes}")
    backend = backends.resolve(backend, BACKENDS, x_BTD.device)
    if backend == "reference":
        x_BTHd = x_BTD.unflatten(-1, (heads, -1))
        return reference.spectral_mix(x_BTHd, filter_BHF, bias_HF, floor).flatten(2)
    dtype = compute_dtype(x_BTD)
    x, filter_, bias = (t.to(dtype).contiguous() for t in (x_BTD, filter_BHF, bias_HF))
    y, _ = _mix(x, filter_, bias, floor, backend)
    return y.to(x_BTD.dtype)


@pytorch.library.custom_op("fftnet::spectral_mix", mutates_args=())
def _mix(x: Tensor, filter_: Tensor, bias: Tensor, floor: float, backend: str) -> tuple[Tensor, Tensor]:
    return _module(backend).forward(x, filter_, bias, floor)


@_mix.register_fake
def _(x, filter_, bias, floor, backend):  # pyright: ignore
    return pytorch.empty_like(x), x.new_empty((x.shape[0], x.shape[2], x.shape[1] // 2 + 1, 2))


@pytorch.library.custom_op("fftnet::spectral_mix_backward", mutates_args=())
def _mix_backward(
    grad_y: Tensor, spectrum: Tensor, filter_: Tensor, bias: Tensor, floor: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _module(backend).backward(grad_y.contiguous(), spectrum, filter_, bias, floor)


@_mix_backward.register_fake
def _(grad_y, spectrum, filter_, bias, floor, backend):  # pyright: ignore
    return tuple(
        pytorch.empty_like(t, memory_format=pytorch.contiguous_format) for t in (grad_y, filter_, bias)
    )


def _setup_context(ctx, inputs, output) -> None:  # pyright: ignore
    _, filter_, bias, floor, backend = inputs
    ctx.save_for_backward(output[1], filter_, bias)
    ctx.floor, ctx.backend = floor, backend


def _autograd(ctx, grad_y, _):  # pyright: ignore
    return *_mix_backward(grad_y, *ctx.saved_tensors, ctx.floor, ctx.backend), None, None


_mix.register_autograd(_autograd, setup_context=_setup_context)
