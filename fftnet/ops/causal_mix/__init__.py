"""Causal mixing: prefix Fourier transform, adaptive filter, modReLU and inverse in one operator.

Steps 1 and 3-5 of section 2 of docs/maths.md. With ``BLOCK``, a constant of each registered backend,
``checkpoints[:, n]`` is the state before token ``n * BLOCK``.
"""

from typing import NamedTuple

from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, on_cpu
from fftnet.ops.registration import RegisteredOperator


class HeadParameters(NamedTuple):
    """Learned numbers of each of H heads and F bins; floating, all of one shape."""

    decay: Tensor
    """a >= 0 per token, (H, F)."""
    frequency: Tensor
    """w in radians per token, (H, F); the pole is ``lambda = exp(-a + i w)``."""
    bias: Tensor
    """modReLU's bias b, (H, F)."""
    readout: Tensor
    """Real and imaginary part of the read-out weight C, (H, F, 2)."""


BACKENDS = Backends(__name__, numba=on_cpu, reference=anything, export=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "causal_mix",
        {
            "values": "B T H d",
            "filter_": "B T H F",
            "decay": "H F",
            "frequency": "H F",
            "bias": "H F",
            "readout": "H F 2",
            "state": "B F 2 H d",
        },
        derived={"N": lambda T, BLOCK: (T + BLOCK - 1) // BLOCK},
    ),
    outputs={"mixed": "B T H d", "last": "B F 2 H d"},
    # Backward recomputes a block from the state before it; that of the first block is ``state``.
    residuals={"checkpoints": "B N*F*2*H*d"},
    saved=("values", "filter_", "decay", "frequency", "bias", "readout", "checkpoints"),
    constants={"eps": "float"},
)


def causal_mix(
    values: Tensor,
    filter_: Tensor,
    parameters: HeadParameters,
    state: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """From values to mixed values, carrying a state.

    With ``lambda = exp(-decay + i frequency)``:
    ``Z_k(t) = lambda_k Z_k(t-1) + v(t)``, ``A_k = modReLU(filter_k(t) Z_k(t); bias_k)`` and
    ``y(t) = Re sum_k C_k A_k(t)``. The normalisation g belongs into the filter.

    Args:
        values: v, (B, T, H, d).
        filter_: one real gain per token, head and bin, (B, T, H, F).
        parameters: of every head and bin.
        state: real and imaginary plane of Z before the first token, (B, F, 2, H, d).
        eps: magnitude below which modReLU stops normalising.

    Returns:
        Mixed values (B, T, H, d) in the dtype of ``values`` and the state after the last token in float32
        (float64 for float64 values).
    """
    mixed, last = _operator(values, filter_, *parameters, state, eps, backend=backend)
    return mixed.to(values.dtype), last
