"""Convolution and input gate before the prefix transform (docs/maths.md, section 6)."""

from torch import Tensor, promote_types

from fftnet.ops.checks import Signature
from fftnet.ops.convolution import new_state
from fftnet.ops.dispatch import Backends, anything, whole_vectors
from fftnet.ops.registration import RegisteredOperator

BACKENDS = Backends(__name__, numba=whole_vectors("D"), reference=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "gated_conv",
        {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"},
        derived={"P": lambda W: W - 1, "D": lambda C: C // 2},
        rule=lambda sizes: (
            f"x holds keys, then values: C must be even, got {sizes['C']}" if sizes["C"] % 2 else None
        ),
    ),
    outputs={"values": "B T D"},
)


def gated_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Keys times values, both causally convolved: ``k(t) v(t)`` with ``[k, v] = causal_conv(x)``.

    Args:
        x: keys, then values, (B, T, C) with C = 2 D.
        conv_weight: one filter of W taps for each channel, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 tokens before the first, (B, P, C).

    Returns:
        Gated values (B, T, D), and the last P tokens for the call that continues, in the dtype of
        ``conv_state``.
    """
    values = _operator(x, conv_weight, conv_state, backend=backend)
    return values.to(promote_types(x.dtype, conv_weight.dtype)), new_state(x, conv_state)
