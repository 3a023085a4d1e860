"""Locks: one holder at a time, released by killed processes, and optional on file systems without locks."""

import errno
import fcntl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fftnet.locks import locked

HOLDER = """
import sys
from pathlib import Path
from fftnet.locks import locked
with locked(Path(sys.argv[1]), wait=False) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with pytest.raises(TimeoutError), locked(path, wait=False):
            pass
        holder.kill()
    assert path.exists()
    with locked(path, wait=False) as held:
        assert held


def test_a_thread_may_take_a_lock_twice_and_another_may_not(tmp_path: Path) -> None:
    def take() -> bool:
        with locked(tmp_path / "lock", wait=False) as held:
            return held

    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "lock", wait=False):
            assert take()
            assert isinstance(pool.submit(take).exception(), TimeoutError)
        assert pool.submit(take).result()


def test_a_file_system_without_locks_differs_from_one_that_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock", wait=False):
        pass

    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with locked(tmp_path / "lock", wait=True) as held:
        assert not held
