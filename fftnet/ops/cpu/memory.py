"""Large results on a CPU: memory that the kernel maps in large pages."""

import ctypes
import mmap
from typing import Any

from torch import Tensor
from torch.nn import functional

from fftnet.ops.cpu import VECTOR_WIDTH

LARGE = 1 << 23
"""Bytes from which the advice pays."""


def _advise() -> Any:
    try:
        return ctypes.CDLL(None).madvise if hasattr(mmap, "MADV_HUGEPAGE") else None
    except (AttributeError, OSError, TypeError):
        return None


_madvise = _advise()


def padded(x: Tensor) -> Tensor:
    """``x`` with zeros behind its last dimension up to whole vectors: they add nothing to any gradient."""
    missing = -x.shape[-1] % VECTOR_WIDTH
    return functional.pad(x, (0, missing)) if missing else x


def lent(*parameters: Tensor) -> list[Tensor]:
    """Copies of small parameters, to be handed to kernels.

    Memory that NumPy has seen can't be resized, and sharding frees gathered parameters by resizing it to 0.
    """
    return [parameter.clone() for parameter in parameters]


def empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor like ``like``, of that shape where one is given.

    Mapping a large one page by page, at the first write, takes longer than computing it; so large ones ask
    for large pages. That is advice: a system that does not know it does as before.
    """
    x = like.new_empty(shape or like.shape)
    if _madvise is not None and x.nbytes >= LARGE:
        start = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = x.data_ptr() + x.nbytes - start
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return x
