"""Which backends can run here and which is the fastest; one table of modules for each operator."""

import importlib.util
import os
from collections.abc import Iterable

import torch
from torch import Tensor

REFERENCE, PORTABLE = "reference", "fft"
FASTEST = {"cpu": "numba", "cuda": "triton"}
"""Kind of device to its fastest backend, where an operator has it and it can run; else the portable one."""
GROUP = 8
"""Fewest channels that a CPU kernel handles at once, in one vector."""


def available(table: Iterable[str]) -> list[str]:
    """Of the backends that ``table`` names, those that can run here, and ``reference``."""
    return [REFERENCE, *(name for name in table if name == PORTABLE or runs(name))]


def runs(name: str) -> bool:
    """Whether the package behind a backend is installed, and a device for it is here."""
    if importlib.util.find_spec(name) is None:
        return False
    return name != "triton" or torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"


def resolve(name: str, table: Iterable[str], device: torch.device) -> str:
    """The backend that ``name`` stands for; ``auto`` is the fastest for tensors on ``device``.

    Raises:
        ValueError: if there is no such backend, or it can't run here.
    """
    names = available(table)
    if name == "auto":
        fastest = FASTEST.get(device.type, PORTABLE)
        return fastest if fastest in names else PORTABLE
    if name in names:
        return name
    problem = f"backend {name!r} can't run here" if name in table else f"unknown backend {name!r}"
    raise ValueError(f"{problem}; choose from auto, {', '.join(names)}")


def fuses(x: Tensor, channels: int) -> bool:
    """Whether the CPU kernels around the mixing serve for ``x``: they handle whole groups of channels."""
    return x.device.type == "cpu" and channels % GROUP == 0 and runs("numba")
