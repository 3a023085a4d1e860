"""RMSNorm over the channels of a token; on CPUs, PyTorch's own makes a dozen passes over memory."""

from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, whole_vectors
from fftnet.ops.registration import RegisteredOperator

BACKENDS = Backends(__name__, numba=whole_vectors("D"), reference=anything)
_SIGNATURE = Signature("rms_norm", {"x": "B T D", "weight": "D"})
_operator = RegisteredOperator(BACKENDS, _SIGNATURE, outputs={"out": "B T D"})


def rms_norm(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """``weight x / rms(x)``, with the root mean square over the channels.

    Args:
        x: (B, T, D).
        weight: (D,).

    Returns:
        (B, T, D) in the dtype of ``x``.
    """
    backend = BACKENDS.select(_SIGNATURE, backend, x, weight)
    portable = BACKENDS.portable(backend, "rms_norm")
    # PyTorch's kernel reads narrow tensors itself, which saves two casts.
    return _operator.run(backend, x, weight).to(x.dtype) if portable is None else portable(x, weight)
