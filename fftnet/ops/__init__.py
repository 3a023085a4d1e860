"""Pure functions of tensors: the only place that casts dtypes, pads, or picks a backend.

An operator is a folder. Its ``__init__`` has the function to call, and each backend is a module next to it.
``fftnet.ops.registration`` has the contract of a backend, ``fftnet.ops.dispatch`` the rule that chooses one.

All operators have the keyword argument ``backend``: the name of a backend for this call, or None for the one
that ``use_backend`` or the environment sets. All compare their tensors with a table of shapes before they
compute anything (``fftnet.ops.checks``). They raise ``ValueError`` if a tensor or a number does not fit, or
if the backend is unknown or can't run here. Tensors have any floating dtype; float16 and bfloat16 are
computed in float32. There must be at least one row and one token.

Shape letters used throughout: B batch, T tokens, D model width, H heads, d = D // H channels a head,
F frequency bins, K anchor frequencies, V vocabulary, C channels of a convolution, W its size, P = W - 1.
"""

from fftnet.ops import (
    addresses,
    decode,
    delta_mix,
    gated_norm,
    keyed_mix,
    prefix_context,
    rms_norm,
    short_conv,
    spectral_mix,
)
from fftnet.ops.dispatch import use_backend

__all__ = [
    "addresses",
    "decode",
    "delta_mix",
    "gated_norm",
    "keyed_mix",
    "prefix_context",
    "rms_norm",
    "short_conv",
    "spectral_mix",
    "use_backend",
]
