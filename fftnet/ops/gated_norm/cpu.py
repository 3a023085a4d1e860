"""The CPU backend of norm and gate: ``fftnet.ops.cpu.norm`` on the tokens of all rows."""

from torch import Tensor

from fftnet.ops.cpu import norm
from fftnet.ops.cpu.memory import empty


def forward(x: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    return norm.forward(x, gate, weight)


def backward(x: Tensor, gate: Tensor, weight: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    grad_gate = empty(gate)
    grad_x, grad_weight = norm.backward(x, gate, weight, grad_out, grad_gate)
    return grad_x, grad_gate, grad_weight
