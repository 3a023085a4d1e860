"""Threads that CPU kernels run on: those of PyTorch.

Numba's parallel loops are not used: its thread layers are not safe to call from several threads, and such
loops take twice as long to compile.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from fftnet.wait_policy import warn_if_crowded

SERIAL_WORK = 1 << 16  # Number of values up to which waking a second thread costs more than it saves.

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def to_array(argument: Any) -> Any:
    """Return a tensor, or a tuple of tensors, as arrays that share their memory; anything else as it is."""
    if isinstance(argument, Tensor):
        return argument.numpy()
    if isinstance(argument, tuple) and argument and isinstance(argument[0], Tensor):
        return tuple(x.numpy() for x in argument)
    return argument


class Threads:
    """Team that shares the items of a kernel, as large as PyTorch's number of threads.

    These are the threads of PyTorch's own OpenMP team: after each operation its workers keep their cores busy
    for milliseconds, waiting for the next one, and other threads would compete with them. Without such a
    team, and after a fork, which no team survives, a pool is made when first needed.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)
        try:
            # A handle also finds the symbols of the libraries behind it, such as PyTorch's OpenMP.
            self._team = ctypes.CDLL(str(torch._C.__file__)).GOMP_parallel
            self._team.argtypes = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            self._team.restype = None
        except (AttributeError, OSError):
            self._team = None

    def run(self, kernel: Any, items: int, work: int, *arguments: Any) -> None:
        """Call ``kernel(first, last, *arguments)``, in several threads if ``work``, in values, is enough."""
        # The common case without a call: at one token, every microsecond counts.
        arrays = [x.numpy() if isinstance(x, Tensor) else to_array(x) for x in arguments]
        threads = min(torch.get_num_threads(), items) if work > SERIAL_WORK else 1
        if threads <= 1:
            kernel(0, items, *arrays)
        else:
            if self._team is not None:
                warn_if_crowded()
            cuts = [items * n // threads for n in range(threads + 1)]
            self._share(kernel, list(pairwise(cuts)), arrays)

    def _share(self, kernel: Any, spans: list[tuple[int, int]], arrays: list[Any]) -> None:
        threads = len(spans)
        failures: list[BaseException] = []
        # The team may be smaller than asked for; fewer threads then take several spans from the queue.
        waiting: SimpleQueue[tuple[int, int]] = SimpleQueue()
        for span in spans:
            waiting.put(span)

        def body(_: int | None = None) -> None:
            try:
                while True:
                    kernel(*waiting.get_nowait(), *arrays)
            except Empty:
                pass
            # An exception must not pass through the C code of the team.
            except BaseException as failure:
                failures.append(failure)

        if self._team is not None:
            self._team(_BODY(body), None, threads, 0)
        else:
            # Its threads start when they are needed; with fewer of them, each takes several spans.
            self._pool = self._pool or ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="fftnet")
            others = [self._pool.submit(body) for _ in range(1, threads)]
            body()
            wait(others)
        if failures:
            raise failures[0]

    def forget(self) -> None:
        """Make new threads when they are next needed, because a forked process has none."""
        self._pool = None
        self._team = None


threads = Threads()
