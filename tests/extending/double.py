"""A backend of bidirectional mixing: plain PyTorch in float64."""

from torch import Tensor

from fftnet.ops.spectral_mix import eager as portable


def forward(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    y, spectrum = portable.forward(x.double(), filter_.double(), bias.double(), eps)
    return y.to(x.dtype), spectrum.to(x.dtype)


def backward(
    filter_: Tensor, bias: Tensor, spectrum: Tensor, grad_mixed: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    wide = [tensor.double() for tensor in (filter_, bias, spectrum, grad_mixed)]
    grad_x, grad_filter, grad_bias = portable.backward(*wide, eps)
    return grad_x.to(grad_mixed.dtype), grad_filter.to(filter_.dtype), grad_bias.to(bias.dtype)
