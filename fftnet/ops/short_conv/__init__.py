"""Short convolution of values and write keys (docs/maths.md, section 3, step 1)."""

from torch import Tensor, promote_types

from fftnet.ops.checks import Signature
from fftnet.ops.convolution import new_state
from fftnet.ops.dispatch import Backends, anything, whole_vectors
from fftnet.ops.registration import RegisteredOperator

# Values and keys are convolved by the same vectors, so both must be whole ones.
BACKENDS = Backends(__name__, numba=whole_vectors("C", "D"), reference=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "short_conv",
        {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"},
        derived={"P": lambda W: W - 1, "K": lambda C, D: C - D},
        rule=lambda sizes: (
            None
            if 0 < sizes["D"] < sizes["C"]
            else f"width must lie between 0 and C = {sizes['C']}, got {sizes['D']}"
        ),
    ),
    outputs={"values": "B T D", "keys": "B T K"},
    constants={"width": "int D"},
)


def short_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, *, width: int, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth-wise causal convolution ``y(t) = sum_i weight[W-1-i] x(t-i)``; the values pass through SiLU.

    Args:
        x: values, then keys, (B, T, C).
        conv_weight: one filter of W taps for each channel, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 tokens before the first, (B, P, C).
        width: D, the number of channels that are values; below C.

    Returns:
        Values (B, T, D), keys (B, T, C - D), and the last P tokens for the call that continues, in the dtype
        of ``conv_state``.
    """
    values, keys = _operator(x, conv_weight, conv_state, width, backend=backend)
    dtype = promote_types(x.dtype, conv_weight.dtype)
    return values.to(dtype), keys.to(dtype), new_state(x, conv_state)
