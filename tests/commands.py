"""Commands for tests: in a new process as a user runs them, in a forked one, or in this one, the fastest."""

import atexit
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from fftnet.cli.main import main

ROOT = Path(__file__).parents[1]
SCRIPTS = {"main.py": "train", "example.py": "generate"}
"""Script of a checkout to the command that it is."""
Done = subprocess.CompletedProcess[str]


class Forks:
    """A process that has imported everything, and forks for every command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(self, words: list[str], folder: Path, out: Path, err: Path, world: int = 1) -> list[int]:
        """Run a command in a folder, in ``world`` processes, and return their exit statuses."""
        places = {"folder": str(folder), "out": str(out), "err": str(err)}
        order = places | {"words": words, "world": world, "environment": os.environ | {"COLUMNS": "100"}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@cache
def shared_forks() -> Forks:
    forks = Forks()
    atexit.register(forks.close)
    return forks


def run(command: str, folder: Path, code: int = 0) -> Done:
    """Run a command as ``run_as_user`` does, in a forked process, which saves the time of imports."""
    program, *words = shlex.split(command)
    if program == "python":
        words[0] = SCRIPTS[words[0]]
    with tempfile.TemporaryDirectory() as kept:
        out, err = (Path(kept, name) for name in ("out", "err"))
        (returned,) = shared_forks().run(words, folder, out, err)
        return checked(subprocess.CompletedProcess(words, returned, out.read_text(), err.read_text()), code)


def run_as_user(command: str, folder: Path, code: int = 0) -> Done:
    """Run ``fftnet COMMAND ...`` or ``python main.py ...`` in a new process, and compare its exit status."""
    words = shlex.split(command)
    words[0] = {"python": sys.executable, "fftnet": str(Path(sys.executable).parent / "fftnet")}[words[0]]
    if words[1] in SCRIPTS:
        words[1] = str(ROOT / words[1])
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "100"}
    )
    return checked(done, code)


def python(
    *words: object, folder: Path = ROOT, code: int = 0, environment: dict[str, str] | None = None
) -> Done:
    """Run Python with arguments and more environment variables in a new process, and check its status."""
    command = [sys.executable, *map(str, words)]
    variables = os.environ | (environment or {})
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


class Answer(NamedTuple):
    """Exit status and output of a command."""

    code: int
    out: str
    err: str


def answer(words: list[str], folder: Path) -> Answer:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    return Answer(code, out.getvalue(), err.getvalue())


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let commands in this process read data from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def checked(done: Done, code: int) -> Done:
    """Return a command after checking its status and that it printed no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done
