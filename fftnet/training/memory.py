"""Memory of a process: kept for later arrays after it was freed, and its peak."""

import ctypes
import sys

import torch

TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
"""Numbers of two parameters of ``mallopt``, from glibc's ``malloc.h``."""
NEVER = 2**31 - 1
LARGEST_MAPPED = (2**30, 2**25)
"""Size in bytes from which an array gets new pages. Older versions of glibc allow 32 MiB at most."""


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, so that new arrays need no new pages.

    By default large arrays get new pages each time, which the system fills with zeros: up to a third of a
    step's time. Freed memory then stays with the process until it ends. With arrays of many sizes, gaps
    between them may raise a peak of gigabytes by 40 %.

    Returns:
        True on success; False if the C library is not glibc, which is then left unchanged.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_MAPPED) and bool(
        mallopt(TRIM_THRESHOLD, NEVER)
    )


def memory_in_use(device: torch.device) -> int:
    """Return the peak memory of this process in bytes: on a GPU that counts it, else in main memory."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, except on macOS.
    return peak if sys.platform == "darwin" else peak * 1024
