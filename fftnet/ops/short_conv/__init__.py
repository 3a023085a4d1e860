"""Short convolution before a keyed mixer: values and write keys that see the tokens just before.

Step 1 of section 3 of docs/maths.md.
"""

from torch import Tensor, promote_types

from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.convolution import new_state
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.registration import RegisteredOperator

__all__ = ["BACKENDS", "short_conv"]


def _whole_vectors(sizes: Sizes, x: Tensor, *others: Tensor | None) -> bool:
    # Values and keys are convolved by the same vectors, so both must be whole ones.
    widths = (sizes["C"], sizes["D"])
    return x.device.type == "cpu" and all(width % VECTOR_WIDTH == 0 for width in widths)


def _has_values_and_keys(sizes: Sizes) -> str | None:
    if 0 < sizes["D"] < sizes["C"]:
        return None
    return f"width must lie between 0 and C = {sizes['C']}, got {sizes['D']}"


BACKENDS = Backends(__name__, numba=_whole_vectors, reference=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "short_conv",
        {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"},
        derived={"P": lambda W: W - 1, "K": lambda C, D: C - D},
        rule=_has_values_and_keys,
    ),
    outputs={"values": "B T D", "keys": "B T K"},
    constants={"width": "int D"},
)


def short_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, *, width: int, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth-wise causal convolution ``y(t) = sum_i weight[W-1-i] x(t-i)``; the values pass through SiLU.

    Args:
        x: values, then keys, (B, T, C), T >= 1, of any floating dtype; float16 and bfloat16 are computed in
            float32.
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
