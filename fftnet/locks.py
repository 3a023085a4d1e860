"""Locks on files. The operating system releases them when their process ends, however it ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of file systems without locks."""


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file; the same thread may take it several times.

    Yield False on a file system without locks. The file is created if it is missing, and stays when the lock
    is released: without a holder it blocks nobody.

    Raises:
        TimeoutError: if another process or thread holds the lock and ``wait`` is False.
    """
    # A soft lock, the fallback of the library, survives a killed process and would block the next one.
    lock = FileLock(path.resolve(), timeout=-1 if wait else 0, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield lock.is_locked
    finally:
        lock.release()
