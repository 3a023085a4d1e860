"""Delta mixing: keyed mixing in which every token first erases what its key reads.

Section 4 of docs/maths.md, step 3, and the read-out of section 3. With ``BLOCK``, a constant of each
registered backend, ``checkpoints[:, n]`` is the state before token ``n * BLOCK``.
"""

from torch import Tensor

from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.dispatch import Backends, anything, on_cpu
from fftnet.ops.registration import RegisteredOperator

MAX_BINS = 32
"""Largest number of bins of the CPU kernel, which unrolls the loop over them."""


def _few_bins(sizes: Sizes, *tensors: Tensor | None) -> bool:
    return sizes["F"] <= MAX_BINS and on_cpu(sizes, tensors[0])  # pyright: ignore[reportArgumentType]


BACKENDS = Backends(__name__, numba=_few_bins, reference=anything, export=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "delta_mix",
        {
            "values": "B T H d",
            "key": "B T H 2 F",
            "filter_": "B T H 2 F",
            "erase": "B T H",
            "clock": "B T H",
            "decay": "H F",
            "frequency": "H F",
            "state": "B H 2 F d",
        },
        derived={"N": lambda T, BLOCK: (T + BLOCK - 1) // BLOCK},
    ),
    outputs={"mixed": "B T H d", "last": "B H 2 F d"},
    residuals={"written": "B T H d", "checkpoints": "B N*H*2*F*d"},
    saved=("written", "key", "filter_", "erase", "clock", "decay", "frequency", "checkpoints", "last"),
)


def delta_mix(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    erase: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated delta rule with complex keys, read through a complex filter.

    For every head, with ``mu = -decay + i frequency``::

        Z <- exp(clock(t) mu) Z
        Z <- Z + key(t) (v(t) - erase(t) Re sum_k conj(key_k(t)) Z_k)
        y(t) = Re sum_k filter_k(t) Z_k

    Args:
        values: v, (B, T, H, d).
        key: the complex write key of every bin as real and imaginary plane, (B, T, H, 2, F).
        filter_: the complex read filter of every bin, likewise.
        erase: erase strength b, (B, T, H). With keys of unit length, 1 replaces the value under a key.
        clock: time that passes at each token, >= 0, (B, T, H); 1 is one token.
        decay: a >= 0 per unit of the clock, (H, F).
        frequency: radians per unit of the clock, (H, F).
        state: real and imaginary plane of Z before the first token, (B, H, 2, F, d).

    Returns:
        Mixed values (B, T, H, d) in the dtype of ``values`` and the state after the last token in float32
        (float64 for float64 values).
    """
    tensors = (values, key, filter_, erase, clock, decay, frequency, state)
    mixed, last = _operator(*tensors, backend=backend)
    return mixed.to(values.dtype), last
