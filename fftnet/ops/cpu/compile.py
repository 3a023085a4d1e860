"""How the CPU kernels are compiled, and when again: Numba keeps the machine code on disk."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from fftnet.ops.cpu import VECTOR_WIDTH

FASTMATH = ("contract", "reassoc", "nsz", "arcp", "afn")
"""The liberties that LLVM may take with floating-point arithmetic: fuse a product and a sum, reorder sums,
ignore the sign of zero, multiply by a reciprocal, approximate functions. Not among them: to assume that there
are no NaNs and infinities. A NaN or an infinity in the input has to come out as NaN."""
LANES = ((0,) * 4 * VECTOR_WIDTH, (0,) * 2 * VECTOR_WIDTH, (0,) * VECTOR_WIDTH)
"""Numbers of channels a vector, widest first. Each is told to a kernel as a tuple of that length, because the
length of a tuple is part of its type: the compiler knows it, and makes a version of the kernel for each."""

_log = logging.getLogger("fftnet")


def widest_lanes(channels: int) -> tuple[int, ...]:
    """The widest of ``LANES`` that divides ``channels``, a multiple of ``VECTOR_WIDTH``."""
    return next(lanes for lanes in LANES if channels % len(lanes) == 0)


def _digest() -> str:
    """A short hash of everything that kernels in other files are compiled from."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


SHARED = _digest()


def jit(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call, cached on disk where there is a folder for it.

    Numba compiles anew when the file changes that the function stands in, but does not look at the files that
    it imports from. The cached code is filed under the function's qualified name, so a digest of this folder
    in that name makes a change here (the vectors, these flags) a new function to the cache.
    """
    function.__qualname__ = f"{function.__qualname__}-{SHARED}"
    options: dict[str, Any] = {"nogil": True, "fastmath": set(FASTMATH), "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        _log.info("no folder to cache compiled kernels in: set NUMBA_CACHE_DIR to save their compile time")
        return numba.njit(**options)(function)
