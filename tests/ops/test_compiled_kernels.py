"""Compilation of the CPU kernels, their cache on disk, and their threads."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import python

import fftnet

pytest.importorskip("numba")

from fftnet.ops.cpu import compile
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
from fftnet.ops.prefix_context import cpu, prefix_context
x, zero = torch.ones(1, 2, 8), torch.zeros(1, 8)
context, _, _ = prefix_context(x, zero, torch.zeros(1, dtype=torch.int64), backend="numba")
stats = cpu._forward.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), context[0, 1, 0].item())
"""


def test_cached_kernels_notice_a_change_in_the_files_that_they_share(tmp_path: Path) -> None:
    package = tmp_path / "fftnet"
    source = Path(fftnet.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    environment = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> list[float]:
        done = python("-c", RUN, folder=tmp_path, environment=environment)
        hits, misses, mean = (float(word) for word in done.stdout.split())
        # A program that has not set up logging sees the line, too.
        assert done.stderr == (f"{compile.COMPILING}\n" if misses else "")
        return [hits, misses, mean]

    assert run() == [0, 1, 1.0]
    assert run() == [1, 0, 1.0]
    vector = package / "ops" / "cpu" / "vector.py"
    text = vector.read_text()
    vector.write_text(text.replace('_define(operator.add, "fadd")', '_define(operator.add, "fsub")'))
    assert vector.read_text() != text
    # The mean of ones: m = 0 - (1 - 0) / 1 = -1, then m = -1 - (1 + 1) / 2 = -2.
    assert run() == [0, 1, -2.0]


@pytest.fixture
def new_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that makes the same kernel as a new process would, cached in ``tmp_path``."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    def make() -> Any:
        monkeypatch.setattr(compile, "_told", set())

        def double(x):  # pyright: ignore
            return 2 * x

        return jit(double)

    return make


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == "fftnet"]
    caplog.clear()
    return found


def test_compilation_is_announced_once_and_not_for_cached_kernels(
    new_kernel: Callable[[], Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for expected in ([compile.COMPILING], []):
        kernel = new_kernel()
        assert (kernel(2), kernel(2.5)) == (4, 5.0)
        assert messages(caplog) == expected
    # Without a folder for the cache, the message says so.
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert new_kernel()(2) == 4
    assert messages(caplog) == [compile.COMPILING_ALWAYS]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda code: b"",
    "cut": lambda code: code[: len(code) // 2],
    "zeros": lambda code: code[: len(code) // 2] + bytes(len(code) // 2),
    "one bit": lambda code: (
        code[: len(code) // 2] + bytes([code[len(code) // 2] ^ 1]) + code[len(code) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize(
    ("suffix", "damage"), [(s, d) for s in ("nbi", "nbc") for d in DAMAGES if (s, d) != ("nbi", "one bit")]
)
def test_a_damaged_kernel_is_compiled_anew_and_kept(
    new_kernel: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    suffix: str,
    damage: str,
) -> None:
    new_kernel()(2)
    (path,) = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    messages(caplog)
    assert new_kernel()(2) == 4
    told, compiling = messages(caplog)
    reason = "ValueError: wrong checksum" if damage == "one bit" else ""
    assert told.startswith(f"the compiled CPU kernels in {path.parent} are damaged ({reason}")
    assert compiling == compile.COMPILING
    kernel = new_kernel()
    assert kernel(2) == 4
    assert sum(kernel.stats.cache_hits.values()) == 1
    assert messages(caplog) == []


def test_a_full_disk_costs_the_cache_only(
    new_kernel: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    kernel = new_kernel()
    assert (kernel(2), kernel(2.5)) == (4, 5.0)
    compiling, told = messages(caplog)
    assert compiling == compile.COMPILING
    assert told.startswith("compiled CPU kernels can't be kept in ")
    assert "(OSError: [Errno 28] No space left on device): free space there, or set NUMBA_CACHE_DIR" in told
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_cache_folder_that_becomes_a_file_costs_the_cache_only(
    new_kernel: Callable[[], Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    kernel = new_kernel()
    (folder,) = tmp_path.iterdir()
    folder.rmdir()
    folder.touch()
    assert kernel(2) == 4
    assert any(line.startswith("compiled CPU kernels can't be kept in ") for line in messages(caplog))
