"""Compilation of the CPU kernels, and the cache of their machine code on disk.

The cache is Numba's. Here it may fail without a loss: a kernel that can't be read is compiled anew, and one
that can't be written is compiled again by the next process.
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

FASTMATH = ("contract", "reassoc", "nsz", "arcp", "afn")
"""The liberties that LLVM may take with floating-point arithmetic: fuse a product and a sum, reorder sums,
ignore the sign of zero, multiply by a reciprocal, approximate functions. Not among them: to assume that there
are no NaNs and infinities. A NaN or an infinity in the input has to come out as NaN."""
LANES = ((0,) * 4 * VECTOR_WIDTH, (0,) * 2 * VECTOR_WIDTH, (0,) * VECTOR_WIDTH)
"""Numbers of channels a vector, widest first. Each is told to a kernel as a tuple of that length, because the
length of a tuple is part of its type: the compiler knows it, and makes a version of the kernel for each."""

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
    """The widest of ``LANES`` that divides ``channels``, a multiple of ``VECTOR_WIDTH``."""
    return next(lanes for lanes in LANES if channels % len(lanes) == 0)


def _digest() -> str:
    """A short hash of everything that kernels in other files are compiled from."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


SHARED = _digest()


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
    """Line to the user before the first kernel is compiled, which takes long; none if all are on disk."""

    def on_start(self, event: Any) -> None:
        # Numba reports what other packages compile, too.
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
    """Compile ``function`` at its first call, cached on disk if there is a folder that can be written.

    Numba compiles anew when the file changes that the function stands in, but does not look at the files that
    it imports from. The cached code is filed under the function's qualified name, so a digest of this folder
    in that name makes a change here (the vectors, these flags) a new function to the cache.
    """
    function.__qualname__ = f"{function.__qualname__}-{SHARED}"
    kernel: Any = numba.njit(nogil=True, fastmath=set(FASTMATH), error_model="numpy")(function)
    with suppress(RuntimeError):  # There is no folder for a cache.
        kernel._cache = _Cache(function)
    return kernel
