"""The CPU backend of RMSNorm: ``fftnet.ops.cpu.norm`` for one head and without a gate."""

from torch import Tensor

from fftnet.ops.cpu import norm


def forward(x: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    return norm.forward(x, None, weight)


def backward(x: Tensor, weight: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    return norm.backward(x, None, weight, grad_out, None)
