"""How PyTorch's threads wait for each other, chosen by the commands before PyTorch is loaded.

This file imports nothing of the package: whatever runs before the choice must not load PyTorch.
"""

import os
import sys

WAIT_POLICY = {"GOMP_SPINCOUNT": "4000"}
"""The commands' choice, for GNU OpenMP: a waiting thread looks so many times and then sleeps.

GNU OpenMP's own number is 300,000, some milliseconds. Beside another process on the same cores, threads that
wait so long keep a core from the one that they wait for, at every barrier, and a training step takes three
times as long. Threads that sleep at once (``OMP_WAIT_POLICY=PASSIVE``) do best there, but make every step a
tenth slower on a quiet machine. This number costs nothing that could be measured when it is quiet.
"""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The variables by which a user chooses; one of them is enough for the commands to leave all alone."""


def set_wait_policy() -> None:
    """Set ``WAIT_POLICY`` in the environment, unless the user has chosen or it is too late.

    OpenMP reads its variables once, while PyTorch is being imported. After that nothing is set, so that the
    environment never tells of a choice that is not in effect.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAIT_VARIABLES):
        return
    os.environ.update(WAIT_POLICY)
