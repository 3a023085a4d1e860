"""Bidirectional mixing (docs/maths.md, section 1): Fourier transform, filter, modReLU and inverse.

Backward has the form of forward. The adjoint of the inverse transform is the transform with the inner bins
counted twice, since each stands for two bins of the full spectrum. The adjoint of the transform is the
inverse with them counted half. Filter and modReLU act within a bin, so the weights cancel on the way to x
and remain in the gradients of filter and bias only: ``fftnet.ops.fourier.count_bins``.
"""

from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, on_cpu
from fftnet.ops.numerics import PAPER_EPS
from fftnet.ops.registration import RegisteredOperator

BACKENDS = Backends(
    __name__,
    numba=on_cpu,
    reference=anything,
    # torch.export can't prove that an open number of tokens fits the half spectrum.
    export=lambda sizes, *_: isinstance(sizes["T"], int),
)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "spectral_mix",
        {"x": "B T D", "filter_": "B H F", "bias": "H F"},
        derived={"F": lambda T: T // 2 + 1},
        rule=lambda sizes: (
            f"num_heads={sizes['H']} must divide the width {sizes['D']}" if sizes["D"] % sizes["H"] else None
        ),
    ),
    outputs={"mixed": "B T D"},
    # The orthonormal half spectrum of x, real and imaginary part last.
    residuals={"spectrum": "B D F 2"},
    saved=("filter_", "bias", "spectrum"),
    constants={"eps": "float"},
)


def spectral_mix(
    x: Tensor, filter_: Tensor, bias: Tensor, *, eps: float = PAPER_EPS, backend: str | None = None
) -> Tensor:
    """Steps 1 and 4-7 of the published layer: from tokens to mixed tokens.

    ``X = rfft(x)``, ``A = modReLU(filter X; bias)``, ``y = irfft(A)``, orthonormal, over the tokens.

    Args:
        x: tokens (B, T, D).
        filter_: one real gain per sample, head and bin, (B, H, F) with F = T // 2 + 1; H must divide D.
        bias: of modReLU, (H, F).
        eps: magnitude below which modReLU stops normalising.

    Returns:
        Mixed tokens (B, T, D) in the dtype of ``x``.
    """
    return _operator(x, filter_, bias, eps, backend=backend).to(x.dtype)
