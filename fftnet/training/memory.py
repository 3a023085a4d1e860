"""Memory that a step or a batch frees is the next one's: it need not go back to the system in between."""

import ctypes
import sys

TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
"""Numbers of two parameters of ``mallopt``, of glibc's ``malloc.h``."""
NEVER = 2**31 - 1
LARGEST_MAPPED = (2**30, 2**25)
"""From how many bytes on an array gets pages of its own. Older versions of glibc allow 32 MiB at most."""


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, so that new arrays need no new pages.

    Large arrays otherwise get pages of their own each time, which the system has to fill with zeros: up to a
    third of a step's time. Memory that was freed is reused, but stays with the process until it ends, and
    between arrays of many sizes gaps are left over: a peak of gigabytes may be higher by 40 %.

    Returns:
        Whether it is so; False where the C library is not glibc, which is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_MAPPED) and bool(
        mallopt(TRIM_THRESHOLD, NEVER)
    )
