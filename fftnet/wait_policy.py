"""Wait policy of PyTorch's threads, set by ``import fftnet`` before PyTorch is loaded.

This file imports nothing of the package, because code that runs before the choice must not load PyTorch.
"""

import functools
import logging
import os
import sys

WAIT_POLICY = {"GOMP_SPINCOUNT": "4000"}
"""Spin count for GNU OpenMP: number of checks of a waiting thread before it sleeps.

The default of GNU OpenMP is 300,000, some milliseconds. If another process uses the same cores, such a thread
keeps a core busy at every barrier while the thread that it waits for needs one: a training step takes three
times as long. Threads that sleep at once (``OMP_WAIT_POLICY=PASSIVE``) are best there, but every step is a
tenth slower on an idle machine. This count costs nothing measurable on an idle machine.
"""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that users set; if one of them is set, nothing is changed."""


def set_wait_policy() -> None:
    """Set ``WAIT_POLICY`` in the environment, unless the user has set a policy or PyTorch is loaded.

    OpenMP reads its variables once, while PyTorch is imported. Later changes would have no effect, and the
    environment would be misleading.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAIT_VARIABLES):
        return
    os.environ.update(WAIT_POLICY)


@functools.cache
def warn_if_crowded() -> None:
    """Log a warning, at the first call only, if threads spin on a machine with a load above its cores."""
    if any(name in os.environ for name in WAIT_VARIABLES) or not hasattr(os, "getloadavg"):
        return
    # The load includes this process's own threads: only a higher one is a sign of others.
    load = os.getloadavg()[0]
    cores = os.cpu_count() or 1
    if load > cores:
        logging.getLogger("fftnet").warning(
            "the machine is busy (load %.1f on %d cores) and PyTorch's threads spin while they wait, which "
            "can make a training step 3 to 15 times slower: import fftnet before torch, or set "
            "GOMP_SPINCOUNT=4000 before Python starts",
            *(load, cores),
        )
