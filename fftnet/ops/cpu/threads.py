"""The threads that CPU kernels run on: those of PyTorch.

Not Numba's parallel loops: its thread layers are not safe to call from several threads, and such loops take
twice as long to compile.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any

import torch

from fftnet.wait_policy import warn_if_crowded

SERIAL_WORK = 1 << 16
"""Up to this many values, waking a second thread costs more than it saves."""

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Threads:
    """Shares the items of a kernel among as many threads as PyTorch uses.

    The threads are those of PyTorch's own OpenMP team, because after each operation its workers keep their
    cores busy for milliseconds, waiting for the next one, and other threads would have to compete with them.
    Where there is no such team, and after a fork, which no team survives, a pool is made when first needed.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)
        try:
            # A handle also finds the symbols of the libraries behind it: the OpenMP that PyTorch runs on.
            self._team = ctypes.CDLL(str(torch._C.__file__)).GOMP_parallel
            self._team.argtypes = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            self._team.restype = None
        except (AttributeError, OSError):
            self._team = None

    def run(self, kernel: Any, items: int, work: int, *arguments: Any) -> None:
        """Call ``kernel(first, last, *arguments)`` so that all items are covered once.

        Args:
            kernel: from ``fftnet.ops.cpu.compile.jit``.
            items: independent pieces of work, shared out evenly.
            work: values that are computed in all, which decides whether more threads pay.
            arguments: passed on.
        """
        threads = min(torch.get_num_threads(), items) if work > SERIAL_WORK else 1
        if threads <= 1:
            kernel(0, items, *arguments)
        else:
            if self._team is not None:
                warn_if_crowded()
            cuts = [items * n // threads for n in range(threads + 1)]
            self._share(kernel, list(pairwise(cuts)), arguments)

    def _share(self, kernel: Any, spans: list[tuple[int, int]], arguments: tuple[Any, ...]) -> None:
        threads = len(spans)
        failures: list[BaseException] = []
        # A queue, because the team may turn out smaller than asked for: fewer threads then do several spans.
        waiting: SimpleQueue[tuple[int, int]] = SimpleQueue()
        for span in spans:
            waiting.put(span)

        def body(_: int | None = None) -> None:
            try:
                while True:
                    kernel(*waiting.get_nowait(), *arguments)
            except Empty:
                pass
            except BaseException as failure:
                failures.append(failure)

        if self._team is not None:
            self._team(_BODY(body), None, threads, 0)
        else:
            others = [self._get(threads - 1).submit(body) for _ in range(1, threads)]
            body()
            wait(others)
        if failures:
            raise failures[0]

    def _get(self, size: int) -> ThreadPoolExecutor:
        if self._pool is None or self._size < size:
            self._pool = ThreadPoolExecutor(size, thread_name_prefix="fftnet")
            self._size = size
        return self._pool

    def forget(self) -> None:
        """Make new threads when they are next needed: in a forked process there are none."""
        self._pool = None
        self._team = None


threads = Threads()
