"""Common parts of the Triton kernels, and how to read them.

A *program* is what CUDA calls a block of threads. It computes on tiles, small arrays that its threads hold
together; a mask says which elements of a tile exist, and nothing else is read or written.

Triton knows no complex numbers. They come as two tiles, with names that end in ``_re`` and ``_im``; in memory
the imaginary one lies ``plane`` numbers after the real one.

Time is cut into chunks of BLOCK tokens, and those into stretches of STRETCH. ``REVERSE`` reverses time: what
is "before" a token is then after it, as gradients flow. ``time`` (B, T, H) is the sum of the clock since the
beginning of a token's chunk.
"""
