"""Read-out norm and output gate of ``addressed_spectral`` (docs/maths.md, section 3, step 7)."""

from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, whole_vectors
from fftnet.ops.registration import RegisteredOperator

BACKENDS = Backends(__name__, numba=whole_vectors("d"), reference=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature("gated_norm", {"x": "B T H d", "gate": "B T H d", "weight": "H d"}),
    outputs={"out": "B T H d"},
)


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """``weight x / rms(x) sigmoid(gate)``, with the root mean square over the channels of a head.

    Args:
        x: (B, T, H, d).
        gate: likewise.
        weight: (H, d).

    Returns:
        (B, T, H, d) in the dtype of ``x``.
    """
    return _operator(x, gate, weight, backend=backend).to(x.dtype)
