"""Compilation of the CPU kernels, and the cache of their machine code on disk.

The cache is Numba's, made safe against failures: a kernel that can't be read is compiled anew, and one that
can't be written is compiled again by the next process.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

from fftnet.ops.cpu import VECTOR_WIDTH

# LLVM may fuse a product and a sum, reorder sums, ignore the sign of zero, multiply by a reciprocal and
# approximate functions. It must not rule out NaN and infinity: one in the input has to come out as NaN.
FASTMATH = ("contract", "reassoc", "nsz", "arcp", "afn")
LANES = ((0,) * 4 * VECTOR_WIDTH, (0,) * 2 * VECTOR_WIDTH, (0,) * VECTOR_WIDTH)
"""Channels a vector, widest first, each as the length of a tuple: the compiler knows it from the type."""

COMPILING = "compiling CPU kernels (about 20 s, once)…"
COMPILING_ALWAYS = (
    "compiling CPU kernels (about 20 s at every start: no folder to keep them in can be written; "
    "set NUMBA_CACHE_DIR)…"
)
DAMAGED = "the compiled CPU kernels in %s are damaged (%s: %s), compiling them anew"
NOT_KEPT = "compiled CPU kernels can't be kept in %s (%s: %s): free space there, or set NUMBA_CACHE_DIR"

_log = logging.getLogger("fftnet")
_told: set[str] = set()


def widest_lanes(channels: int) -> tuple[int, ...]:
    """Return the widest of ``LANES`` that divides ``channels``, a multiple of ``VECTOR_WIDTH``."""
    return next(lanes for lanes in LANES if channels % len(lanes) == 0)


# Short hash of this folder, from which kernels in other files are compiled, too.
_sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
SHARED = hashlib.sha256(b"".join(_sources)).hexdigest()[:12]


class _Checked(CompileResultCacheImpl):
    """Numba's form of a kernel on disk, with a checksum: damaged machine code would end the process."""

    def reduce(self, cres: Any) -> tuple[bytes, bytes]:
        code = dumps(super().reduce(cres))
        return hashlib.sha256(code).digest(), code

    def rebuild(self, target_context: Any, payload: tuple[bytes, bytes]) -> Any:
        digest, code = payload
        if hashlib.sha256(code).digest() != digest:
            raise ValueError("wrong checksum")
        return super().rebuild(target_context, pickle.loads(code))


class _Cache(FunctionCache):
    """Numba's cache of one kernel, whose failures cost time only."""

    _impl_class = _Checked

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as failure:  # Unpickling a damaged file raises almost anything.
            _tell(DAMAGED, self.cache_path, type(failure).__name__, failure)
            with suppress(OSError):
                # Saving begins with the index, so one that can't be read would stay for ever.
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as failure:  # A full disk, a read-only folder, or a damaged index.
            _tell(NOT_KEPT, self.cache_path, type(failure).__name__, failure)


class _Announcement(event.Listener):
    """Message to the user before the first kernel is compiled; none if all are on disk."""

    def on_start(self, event: Any) -> None:
        # Numba reports the functions of other packages, too.
        kernel = event.data["dispatcher"]
        function = getattr(kernel, "py_func", None)
        if getattr(function, "__qualname__", "").endswith(SHARED):
            _tell(COMPILING if isinstance(kernel._cache, _Cache) else COMPILING_ALWAYS)

    def on_end(self, event: Any) -> None:
        pass


def _tell(message: str, *values: Any) -> None:
    """Log a warning, once in the life of the process."""
    if message not in _told:
        _told.add(message)
        _log.warning(message, *values)


event.register("numba:compile", _Announcement())


def jit(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call, cached on disk if a folder can be written."""
    # Numba compiles anew if the file of a function changes, but ignores the files that it imports from. The
    # cache files code under the qualified name, so that a change in this folder makes another function.
    function.__qualname__ = f"{function.__qualname__}-{SHARED}"
    kernel: Any = numba.njit(nogil=True, fastmath=set(FASTMATH), error_model="numpy")(function)
    # RuntimeError: there is no folder for a cache.
    with suppress(RuntimeError):
        kernel._cache = _Cache(function)
    return kernel
