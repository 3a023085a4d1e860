"""Wait policy of PyTorch's threads, chosen by ``import fftnet`` before PyTorch is loaded.

This file imports nothing of the package: whatever runs before the choice must not load PyTorch.
"""

import functools
import logging
import os
import sys

WAIT_POLICY = {"GOMP_SPINCOUNT": "4000"}
"""Our choice, for GNU OpenMP: number of looks of a waiting thread before it sleeps.

GNU OpenMP's own number is 300,000, some milliseconds. Beside another process on the same cores, threads that
wait so long keep a core from the one that they wait for, at every barrier, and a training step takes three
times as long. Threads that sleep at once (``OMP_WAIT_POLICY=PASSIVE``) do best there, but make every step a
tenth slower on a quiet machine. This number costs nothing that could be measured when it is quiet.
"""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The variables by which a user chooses; if one of them is set, nothing is changed."""


def set_wait_policy() -> None:
    """Set ``WAIT_POLICY`` in the environment, unless the user has chosen or it is too late.

    OpenMP reads its variables once, while PyTorch is being imported. After that nothing is set, so that the
    environment never tells of a choice that is not in effect.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAIT_VARIABLES):
        return
    os.environ.update(WAIT_POLICY)


@functools.cache
def warn_if_crowded() -> None:
    """Log a warning, at the first call only, if threads spin on a machine that has more to do than cores."""
    if any(name in os.environ for name in WAIT_VARIABLES) or not hasattr(os, "getloadavg"):
        return
    load = os.getloadavg()[0]
    cores = os.cpu_count() or 1
    if load > cores:
        logging.getLogger("fftnet").warning(
            "the machine is busy (load %.1f on %d cores) and PyTorch's threads spin while they wait, which "
            "can make a training step 3 to 15 times slower: import fftnet before torch, or set "
            "GOMP_SPINCOUNT=4000 before Python starts",
            *(load, cores),
        )
