"""Common parts of the CPU kernels, and how to read them.

A kernel is a Python function that Numba compiles to machine code, through the compiler framework LLVM, when
it is first called. It gets plain NumPy arrays, which share the memory of tensors, and writes its results into
arrays that were made before.

* Work items (``fftnet.ops.cpu.threads``): every kernel begins with ``first, last``, the range of independent
  pieces of work that this call does. Threads take ranges until all are done.
* Vectors (``fftnet.ops.cpu.vector``): a processor multiplies 8 or 16 neighbouring numbers as fast as one.
  A kernel therefore handles neighbouring channels as one value, a vector; its *lanes* are the channels.
* Indices: ``load(array, index, lanes)`` reads a vector that begins at ``array[index]``. Arrays are contiguous
  and nothing checks bounds, so ``x[0, n]`` is token n counted over all rows of the batch.
* Loop order of kernels whose items are vectors of channels: row, block of BLOCK tokens, vector, token. The
  channels of a token are neighbours in memory, so the next vector finds in the cache what was fetched for
  the first.
* Names that end in ``_re`` and ``_im`` are the parts of a complex number. Gradients are named ``grad_...``.
* Compilation (``fftnet.ops.cpu.compile``): the result is kept on disk, so it is paid for once.
* Large results (``fftnet.ops.cpu.memory``): memory that is mapped in large pages.
"""

VECTOR_WIDTH = 8  # Fewest channels that a vector holds; kernels take widths that are a multiple of it.
BLOCK = 64  # Tokens that one vector of channels walks before the next does.
