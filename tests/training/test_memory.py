"""Freed memory stays with the process: measured as page faults."""

import json
import subprocess
import sys

import pytest

from fftnet.training import memory

STEPS = """
import json, resource, sys
import torch
from fftnet.training.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
faults = []
for step in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        x = torch.ones(16, 1024, 1024) + 1
    del x
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, sorted(faults)[6]]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_most_steps_need_no_new_pages() -> None:
    found = {}
    for mode in ("kept", "usual"):
        command = [sys.executable, "-c", STEPS, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kept, found[mode] = json.loads(done.stdout)
        if kept is False:
            pytest.skip("this C library is not glibc")
    # An array of 64 MiB, which glibc by default maps anew each time, has 16,384 pages. The median step
    # counts, because the heap may still grow in the first ones.
    assert found["kept"] < 100
    assert found["usual"] > 16_000


def test_another_c_library_is_left_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
