"""Tensors that kernels take: whole vectors, parameters copied, and large results in large pages."""

import ctypes
import mmap
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.nn import functional

from fftnet.ops.cpu import VECTOR_WIDTH

LARGE = 1 << 23  # Size from which large pages pay, in bytes.


_madvise: Any = None
with suppress(AttributeError, OSError, TypeError):
    _madvise = ctypes.CDLL(None).madvise if hasattr(mmap, "MADV_HUGEPAGE") else None


def padded(x: Tensor, dims: int = 1) -> Tensor:
    """Return ``x`` with its last dimensions filled up to whole vectors by zeros, which change no gradient."""
    missing = [-size % VECTOR_WIDTH for size in x.shape[-dims:]]
    # functional.pad takes two numbers a dimension, the last dimension first.
    widths = [width for size in reversed(missing) for width in (0, size)]
    return functional.pad(x, widths) if any(missing) else x


def copies(*parameters: Tensor) -> list[Tensor]:
    """Return copies of small parameters, to be handed to kernels."""
    # Memory that NumPy has seen can't be resized, and sharding frees gathered parameters by resizing it to 0.
    return [parameter.clone() for parameter in parameters]


def empty(like: Tensor, *shape: int) -> Tensor:
    """Return an uninitialised tensor like ``like``, optionally of another shape.

    Mapping a large one page by page, at the first write, takes longer than computing it. So large ones ask
    for large pages; a system that does not know this advice ignores it.
    """
    x = like.new_empty(shape or like.shape)
    if _madvise is not None and x.nbytes >= LARGE:
        # The advice must begin at a page; the part of a page before it stays as it is.
        start = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = x.data_ptr() + x.nbytes - start
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return x
