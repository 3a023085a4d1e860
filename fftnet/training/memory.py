"""Memory of a process: kept for later arrays after it was freed, and its peak."""

import ctypes
import sys

import torch


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, so that new arrays need no new pages.

    By default large arrays get new pages each time, which the system fills with zeros: up to a third of a
    step's time. Freed memory then stays with the process until it ends. With arrays of many sizes, gaps
    between them may raise a peak of gigabytes by 40 %. Return False if the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    # From glibc's malloc.h: -3 is the size from which an array gets new pages, and -1 the one from which
    # freed memory is returned. Older versions allow 32 MiB at most for the first.
    mapped = any(mallopt(-3, size) for size in (2**30, 2**25))
    return mapped and bool(mallopt(-1, 2**31 - 1))


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
