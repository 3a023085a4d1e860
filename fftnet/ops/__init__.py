"""Pure functions of tensors: the only place that casts dtypes, pads, or picks a backend.

An operator is a folder: its ``__init__`` is the function to call, with the contract of its backends, and each
backend is a module beside it (``fftnet.ops.dispatch``). All operators compare their tensors with a table
before they compute anything (``fftnet.ops.checks``).

Shape letters used throughout: B batch, T tokens, D model width, H heads, d = D // H channels a head,
F frequency bins, K anchor frequencies, V vocabulary, C channels of a convolution, W its size, P = W - 1.
"""

from fftnet.ops import (
    addresses,
    causal_mix,
    decode,
    gated_conv,
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
    "causal_mix",
    "decode",
    "gated_conv",
    "gated_norm",
    "keyed_mix",
    "prefix_context",
    "rms_norm",
    "short_conv",
    "spectral_mix",
    "use_backend",
]
