"""Keyed mixing: the prefix transform of keyed values and its read-out through a complex filter.

Steps 3 and 6 of section 3 of docs/maths.md. With ``BLOCK``, a constant of each registered backend,
``checkpoints[:, n]`` is the state before token ``n * BLOCK``.
"""

from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, on_cpu, on_gpu
from fftnet.ops.registration import RegisteredOperator

BACKENDS = Backends(__name__, numba=on_cpu, triton=on_gpu, reference=anything, export=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "keyed_mix",
        {
            "values": "B T H d",
            "key": "B T H 2 F",
            "filter_": "B T H 2 F",
            "clock": "B T H",
            "decay": "H F",
            "frequency": "H F",
            "state": "B H 2 F d",
        },
        derived={"N": lambda T, BLOCK: (T + BLOCK - 1) // BLOCK},
    ),
    outputs={"mixed": "B T H d", "last": "B H 2 F d"},
    # Backward recomputes a block from the state before it; that of the first block is ``state``.
    residuals={"checkpoints": "B N*H*2*F*d"},
    saved=("values", "key", "filter_", "clock", "decay", "frequency", "checkpoints", "last"),
)


def keyed_mix(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Prefix transform of keyed values, read through a complex filter.

    ``Z_k(t) = exp(clock(t) (-decay_k + i frequency_k)) Z_k(t-1) + key_k(t) v(t)`` and
    ``y(t) = Re sum_k filter_k(t) Z_k(t)``, for every head.

    Args:
        values: v, (B, T, H, d).
        key: the complex write key of every bin as real and imaginary plane, (B, T, H, 2, F).
        filter_: the complex read filter of every bin, likewise.
        clock: time that passes at each token, >= 0, (B, T, H); 1 is one token.
        decay: a >= 0 per unit of the clock, (H, F).
        frequency: radians per unit of the clock, (H, F).
        state: real and imaginary plane of Z before the first token, (B, H, 2, F, d).

    Returns:
        Mixed values (B, T, H, d) in the dtype of ``values`` and the state after the last token in float32
        (float64 for float64 values).
    """
    tensors = (values, key, filter_, clock, decay, frequency, state)
    mixed, last = _operator(*tensors, backend=backend)
    return mixed.to(values.dtype), last
