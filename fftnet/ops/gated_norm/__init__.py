"""Read-out norm and output gate of a keyed mixer, in one operator.

``gated_norm`` is the only entry: it checks and picks a backend.
"""

from torch import Tensor

# An import of a submodule binds its name in this package: `torch` is a backend here, which is why PyTorch's
# own names are imported one by one.
from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.gated_norm import reference
from fftnet.ops.gated_norm import torch as portable

__all__ = ["BACKENDS", "gated_norm"]

BACKENDS = Backends(
    __name__,
    torch=anything,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": portable.gated_norm, "reference": reference.gated_norm}
_SIGNATURE = Signature("gated_norm", {"x": "B T H d", "gate": "B T H d", "weight": "H d"})


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """``weight x / rms(x) sigmoid(gate)``, with the root mean square over the channels of a head.

    Args:
        x: (B, T, H, d) of any floating dtype, T >= 1.
        gate: likewise.
        weight: (H, d).
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        (B, T, H, d) in the dtype of ``x``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, x, gate, weight)
    return _DIFFERENTIABLE[backend](x, gate, weight)
