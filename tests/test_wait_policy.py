"""``import fftnet`` sets the wait policy of PyTorch's threads before PyTorch is loaded."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, python

from fftnet.wait_policy import WAIT_POLICY, WAIT_VARIABLES, set_wait_policy, warn_if_crowded

FAKE_TORCH = f"""
import json, os
print(json.dumps({{name: os.environ[name] for name in {WAIT_VARIABLES} if name in os.environ}}), flush=True)
os._exit(0)
"""
"""Replaces PyTorch: prints what is set at the moment when it is loaded, and ends the process."""
ENTRY_POINTS = {
    "main.py": ["main.py"],
    "example.py": ["example.py"],
    "python -m fftnet": ["-m", "fftnet", "train"],
    "a library": ["-c", "import fftnet, torch"],
    "fftnet": ["-c", "import sys; from fftnet.cli.main import main; sys.exit(main())", "train"],
}


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("entry", "choice"), [*((entry, {}) for entry in ENTRY_POINTS), ("a library", {"KMP_BLOCKTIME": "1"})]
)
def test_commands_and_programs_set_it_before_pytorch_is_loaded_unless_the_user_has(
    entry: str, choice: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(FAKE_TORCH)
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = python(*ENTRY_POINTS[entry], environment=choice | path)
    assert json.loads(done.stdout) == (choice or WAIT_POLICY)


def test_nothing_is_set_after_pytorch_is_loaded() -> None:
    set_wait_policy()
    assert not any(name in os.environ for name in WAIT_VARIABLES)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch contains GNU OpenMP on Linux only")
def test_openmp_reads_what_is_set() -> None:
    done = python("-c", "import fftnet, torch", environment={"OMP_DISPLAY_ENV": "VERBOSE"})
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this PyTorch does not run on GNU OpenMP")
    assert "GOMP_SPINCOUNT = '4000'" in done.stderr


def test_a_busy_machine_is_reported_once_at_the_first_kernel_of_several_threads(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = pytest.importorskip("fftnet.ops.cpu.threads")
    monkeypatch.setattr(os, "getloadavg", lambda: (9.4, 1.0, 1.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    team = threads.Threads()
    monkeypatch.setattr(team, "_team", lambda body, *_: body(None))
    warn_if_crowded.cache_clear()
    with caplog.at_level(logging.WARNING, logger="fftnet"):
        team.run(lambda first, last: None, 4, 1)
        assert caplog.messages == []
        for _ in range(2):
            team.run(lambda first, last: None, 4, threads.SERIAL_WORK + 1)
    (message,) = caplog.messages
    assert message.startswith("the machine is busy (load 9.4 on 2 cores) and PyTorch's threads spin while")
    assert "import fftnet before torch, or set GOMP_SPINCOUNT=4000 before Python starts" in message


@pytest.mark.parametrize(("cores", "choice"), [(2, {"OMP_WAIT_POLICY": "PASSIVE"}), (16, {})])
def test_an_idle_machine_and_a_choice_of_the_user_are_not_reported(
    cores: int, choice: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (9.4, 1.0, 1.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "environ", os.environ | choice)
    warn_if_crowded.cache_clear()
    warn_if_crowded()
    assert caplog.messages == []
