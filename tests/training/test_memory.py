"""Freed memory stays with the process: counted in pages that the system had to bring."""

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


def pages(how: str) -> tuple[bool | None, int]:
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    kept, faults = json.loads(done.stdout)
    return kept, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_most_steps_bring_no_new_pages() -> None:
    kept, faults = pages("kept")
    if not kept:
        pytest.skip("this C library is not glibc")
    # An array of 64 MiB, which glibc by itself always maps anew, has 16,384 pages. The median step counts,
    # since the heap may still grow in the first ones.
    assert faults < 100
    assert pages("usual")[1] > 16_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False


def test_an_older_glibc_gets_what_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Older:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            asked.append((parameter, value))
            return int(parameter != memory.MMAP_THRESHOLD or value <= 2**25)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Older)
    assert memory.keep_freed_memory() is True
    assert asked == [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]
