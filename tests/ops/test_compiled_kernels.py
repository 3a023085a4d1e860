"""How CPU kernels are compiled, kept on disk, and shared among threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fftnet

pytest.importorskip("numba")

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.threads import SERIAL_WORK, Threads


@jit
def _count(first, last, seen):  # pyright: ignore
    for item in range(first, last):
        seen[item] += 1


@pytest.mark.parametrize("forked", [False, True])
def test_threads_cover_every_item_once(forked: bool) -> None:
    threads = Threads()
    if forked:
        threads.forget()
    for items in (1, 2, 7):
        for work in (1, SERIAL_WORK + 1):
            seen = np.zeros(items, np.int64)
            threads.run(_count, items, work, seen)
            assert (seen == 1).all()
    with pytest.raises(TypeError, match="not enough arguments"):
        threads.run(_count, 4, SERIAL_WORK + 1)


RUN = """
import torch
from fftnet.ops.prefix_context import numba, prefix_context
x, zero = torch.ones(1, 2, 8), torch.zeros(1, 8)
context, _, _ = prefix_context(x, zero, torch.zeros(1, dtype=torch.int64), backend="numba")
stats = numba._forward.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), context[0, 1, 0].item())
"""


def test_the_kept_kernels_notice_a_change_in_the_files_that_they_share(tmp_path: Path) -> None:
    package = tmp_path / "fftnet"
    source = Path(fftnet.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> list[float]:
        command = [sys.executable, "-c", RUN]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return [float(word) for word in done.stdout.split()]

    assert run() == [0, 1, 1.0]
    assert run() == [1, 0, 1.0]
    vector = package / "ops" / "cpu" / "vector.py"
    text = vector.read_text()
    vector.write_text(text.replace('_define(operator.add, "fadd")', '_define(operator.add, "fsub")'))
    assert vector.read_text() != text
    # The mean of ones: m = 0 - (1 - 0) / 1 = -1, then m = -1 - (1 + 1) / 2 = -2.
    assert run() == [0, 1, -2.0]
