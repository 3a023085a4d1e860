"""What the CPU backends share: how kernels are compiled, and the threads they run on.

The threads are our own, as many as PyTorch uses, because Numba's thread layers are not safe to call from
several threads or after a fork.
"""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch

from fftnet.ops.prefix import GROUP

FASTMATH = ("contract", "reassoc", "nsz", "arcp", "afn")
"""LLVM's liberties, without nnan and ninf: a NaN or an infinity in the input has to come out as NaN."""
GROUPS = ((0,) * 4 * GROUP, (0,) * 2 * GROUP, (0,) * GROUP)
"""Group sizes, each as the length of a tuple: that is a constant to Numba's compiler."""
SERIAL_WORK = 1 << 17
"""Up to this many values, waking a second thread costs more than it saves."""

_log = logging.getLogger("fftnet")


def jit(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call, cached on disk where there is a folder for it."""
    options: dict[str, Any] = {"nogil": True, "fastmath": set(FASTMATH), "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        _log.info("no folder to cache compiled kernels in: set NUMBA_CACHE_DIR to save their compile time")
        return numba.njit(**options)(function)


class _Threads:
    """Threads that are made when first needed, again after a fork, and again when more are wanted."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._size, self._process = 0, 0

    def run(self, kernel: Any, items: int, work: int, *arguments: Any) -> None:
        """Call ``kernel(first, last, *arguments)`` so that all items are covered once.

        Args:
            kernel: from :func:`jit`.
            items: independent pieces of work, shared out evenly.
            work: values that are computed in all, which decides whether more threads pay.
            arguments: passed on.
        """
        known, start = len(kernel.overloads), time.perf_counter()
        threads = min(torch.get_num_threads(), items) if work > SERIAL_WORK else 1
        cuts = [items * n // threads for n in range(threads + 1)]
        others = [
            self._get(threads - 1).submit(kernel, cuts[n], cuts[n + 1], *arguments) for n in range(1, threads)
        ]
        kernel(cuts[0], cuts[1], *arguments)
        for other in others:
            other.result()
        if len(kernel.overloads) > known and sum(kernel.stats.cache_misses.values()):
            _log.info("compiled a CPU kernel in %.1f s, once", time.perf_counter() - start)

    def _get(self, size: int) -> ThreadPoolExecutor:
        if self._pool is None or self._size < size or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(size, thread_name_prefix="fftnet")
            self._size, self._process = size, os.getpid()
        return self._pool


threads = _Threads()
