"""What the CPU kernels share: vectors for Numba, threads, memory."""
