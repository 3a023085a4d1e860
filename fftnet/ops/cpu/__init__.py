"""The common ground of the CPU kernels. How to read them:

A kernel is a Python function that Numba compiles to machine code, through the compiler framework LLVM, when
it is first called. It is handed plain NumPy arrays, which share the memory of tensors, and writes its results
into arrays that were made before.

* Work items (``fftnet.ops.cpu.threads``): every kernel begins with ``first, last``, the range of
  independent pieces of work that this call does. Threads take ranges until all are done.
* Vectors (``fftnet.ops.cpu.vector``): a processor multiplies 8 or 16 neighbouring numbers as fast as one.
  A kernel therefore handles neighbouring channels as one value, a vector; its *lanes* are the channels.
* Offsets: ``load(array, offset, lanes)`` counts numbers from the beginning of a contiguous array, whatever
  its shape. Element (b, t, c) of an array of shape (B, T, C) is at ``(b * T + t) * C + c``.
* Compilation (``fftnet.ops.cpu.compile``): the result is kept on disk, so it is paid for once.
* Large results (``fftnet.ops.cpu.memory``): memory that is mapped in large pages.
"""

VECTOR_WIDTH = 8
"""Fewest channels that a vector holds; kernels take widths that are a multiple of it."""
