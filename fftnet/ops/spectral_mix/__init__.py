"""Bidirectional mixing: Fourier transform, filter, modReLU and inverse in one operator.

``spectral_mix`` is the only entry: it checks, casts and picks a backend. As a registered operator it is
one node to ``torch.compile`` and ``torch.export``, without a complex tensor.

A backend is a module in this folder with two functions on contiguous tensors of one dtype:

* ``forward(x, filter_, bias, eps) -> (mixed, spectrum)``, with the orthonormal half spectrum of x as real and
  imaginary part, channels before bins: (B, D, F, 2);
* ``backward(filter_, bias, spectrum, grad_mixed, eps)``, which returns the gradients of x, filter and bias.

``reference`` and ``export`` have neither: they are functions of the arguments of ``spectral_mix``, which
autograd can see through.

Backward is a forward: the adjoint of the inverse transform is the transform with the inner bins counted twice
(they stand for two bins of the full spectrum each), the adjoint of the transform is the inverse with them
counted half, and filter and modReLU act within a bin. So the weights cancel on the way to x and are left over
in the gradients of filter and bias only: ``fftnet.ops.fourier.count_bins``.
"""

from torch import Tensor, contiguous_format, empty_like

# An import of a submodule binds its name in this package: `torch` and `numba` are the backends here, which is
# why PyTorch's own names are imported one by one above.
from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.dispatch import Backends, anything, on_cpu
from fftnet.ops.numerics import PAPER_EPS, compute_dtype
from fftnet.ops.registration import register
from fftnet.ops.spectral_mix import export, reference


def _length_is_known(x: Tensor, *others: Tensor | None) -> bool:
    return isinstance(x.shape[1], int)


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=on_cpu,
    reference=anything,
    export=_length_is_known,
)


def _heads_divide(sizes: Sizes) -> str | None:
    if sizes["D"] % sizes["H"] == 0:
        return None
    return f"num_heads={sizes['H']} must divide the width {sizes['D']}"


_SIGNATURE = Signature(
    "spectral_mix",
    {"x": "B T D", "filter_": "B H F", "bias": "H F"},
    derived={"F": lambda sizes: sizes["T"] // 2 + 1},
    rule=_heads_divide,
)
_BACKWARD_SIGNATURE = Signature(
    "spectral_mix_backward",
    {"filter_": "B H F", "bias": "H F", "spectrum": "B D F 2", "grad_mixed": "B T D"},
    rule=lambda sizes: _heads_divide(sizes) or _bins_fit(sizes),
)


def _bins_fit(sizes: Sizes) -> str | None:
    bins = sizes["T"] // 2 + 1
    return None if sizes["F"] == bins else f"{sizes['T']} tokens have {bins} bins, got {sizes['F']}"


def spectral_mix(
    x: Tensor,
    filter_: Tensor,
    bias: Tensor,
    *,
    eps: float = PAPER_EPS,
    backend: str | None = None,
) -> Tensor:
    """Steps 1 and 4-7 of the published layer (docs/maths.md): from tokens to mixed tokens.

    ``X = rfft(x)``, ``A = modReLU(filter X; bias)``, ``y = irfft(A)``, orthonormal, over the tokens.

    Args:
        x: tokens of any floating dtype, (B, T, D), T >= 1; float16 and bfloat16 are computed in float32.
        filter_: one real gain per sample, head and bin, (B, H, F) with F = T // 2 + 1; H must divide D.
        bias: of modReLU, (H, F).
        eps: magnitude below which modReLU stops normalising.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Mixed tokens (B, T, D) in the dtype of ``x``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, x, filter_, bias)
    if backend == "reference":
        return reference.spectral_mix(x, filter_, bias, eps)
    dtype = compute_dtype(x)
    wide, filter_, bias = (tensor.to(dtype).contiguous() for tensor in (x, filter_, bias))
    if backend == "export":
        return export.spectral_mix(wide, filter_, bias, eps).to(x.dtype)
    mixed, _ = _operator(wide, filter_, bias, eps, backend)
    return mixed.to(x.dtype)


def _forward(x: Tensor, filter_: Tensor, bias: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    return BACKENDS.load(backend, x).forward(x, filter_, bias, eps)


def _fake(x, filter_, bias, eps, backend):  # pyright: ignore
    return empty_like(x), x.new_empty((x.shape[0], x.shape[2], x.shape[1] // 2 + 1, 2))


def _backward(
    filter_: Tensor, bias: Tensor, spectrum: Tensor, grad_mixed: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return BACKENDS.load(backend, filter_).backward(filter_, bias, spectrum, grad_mixed, eps)


def _fake_backward(filter_, bias, spectrum, grad_mixed, eps, backend):  # pyright: ignore
    like = (grad_mixed, filter_, bias)
    return tuple(empty_like(x, memory_format=contiguous_format) for x in like)


_operator = register(
    "spectral_mix",
    signature=_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: (inputs[1], inputs[2], outputs[1]),
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
