"""The short convolution before a keyed mixer: values and write keys that see the tokens just before.

``short_conv`` is the only entry: it checks and picks a backend.
"""

from torch import Tensor

# An import of a submodule binds its name in this package: `torch` is a backend here, which is why PyTorch's
# own names are imported one by one.
from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.short_conv import reference
from fftnet.ops.short_conv import torch as portable

__all__ = ["BACKENDS", "short_conv"]


BACKENDS = Backends(
    __name__,
    torch=anything,
    reference=anything,
)
_DIFFERENTIABLE = {"torch": portable.short_conv, "reference": reference.short_conv}
_SIGNATURE = Signature(
    "short_conv",
    {"x": "B T C", "conv_weight": "C W", "conv_state": "B P C"},
    derived={"P": lambda sizes: sizes["W"] - 1},
)


def short_conv(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, *, width: int, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth-wise causal convolution ``y(t) = sum_i weight[W-1-i] x(t-i)``; the values pass through SiLU.

    Args:
        x: values, then keys, (B, T, C) of any floating dtype; T >= 1.
        conv_weight: one filter of W taps for each channel, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 tokens before the first, (B, P, C).
        width: D, how many of the channels are values; below C.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Values (B, T, D), keys (B, T, C - D), and the last P tokens for the call that continues, in the dtype
        of ``conv_state``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    if not 0 < width < x.shape[-1]:
        raise ValueError(f"short_conv: width must lie between 0 and C = {x.shape[-1]}, got {width}")
    backend = BACKENDS.select(_SIGNATURE, backend, x, conv_weight, conv_state)
    return _DIFFERENTIABLE[backend](x, conv_weight, conv_state, width)
