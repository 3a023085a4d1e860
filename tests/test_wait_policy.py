"""``import fftnet`` chooses how PyTorch's threads wait, before PyTorch is loaded, unless the user has."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fftnet.wait_policy import WAIT_POLICY, WAIT_VARIABLES, set_wait_policy, warn_if_crowded

ROOT = Path(__file__).parents[1]
FAKE_TORCH = f"""
import json, os
print(json.dumps({{name: os.environ[name] for name in {WAIT_VARIABLES} if name in os.environ}}), flush=True)
os._exit(0)
"""
"""Takes PyTorch's place, tells what is set at the moment when it is loaded, and ends the process."""
ENTRY_POINTS = {
    "main.py": ["main.py"],
    "example.py": ["example.py"],
    "python -m fftnet": ["-m", "fftnet", "train"],
    "a library": ["-c", "import fftnet, torch"],
    "fftnet": ["-c", "import sys; from fftnet.cli.main import main; sys.exit(main())", "train"],
}


def without_choice() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def chosen() -> dict[str, str]:
    return {name: os.environ[name] for name in WAIT_VARIABLES if name in os.environ}


@pytest.mark.usefixtures("no_choice", "no_torch")
def test_a_policy_is_set_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    set_wait_policy()
    assert chosen() == WAIT_POLICY


@pytest.mark.usefixtures("no_choice", "no_torch")
@pytest.mark.parametrize("name", WAIT_VARIABLES)
def test_a_choice_of_the_user_stays_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {name: ""})
    set_wait_policy()
    assert chosen() == {name: ""}


@pytest.mark.usefixtures("no_choice")
def test_nothing_is_set_once_pytorch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    set_wait_policy()
    assert chosen() == {}


@pytest.mark.parametrize("choice", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
@pytest.mark.parametrize("entry", list(ENTRY_POINTS))
def test_commands_and_programs_set_it_before_pytorch_is_loaded(
    entry: str, choice: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(FAKE_TORCH)
    environment = without_choice() | choice | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    # The folder of a script comes first on the path, but PyTorch is not there.
    done = subprocess.run(
        [sys.executable, *ENTRY_POINTS[entry]],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == (choice or WAIT_POLICY)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is what PyTorch brings on Linux only")
def test_openmp_reads_what_is_set() -> None:
    code = "import fftnet, torch"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=without_choice() | {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this PyTorch does not run on GNU OpenMP")
    assert "GOMP_SPINCOUNT = '4000'" in done.stderr


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    warn_if_crowded.cache_clear()
    monkeypatch.setattr(os, "getloadavg", lambda: (9.4, 1.0, 1.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


WARNING = "the machine is busy (load 9.4 on 2 cores) and PyTorch's threads spin while they wait"


@pytest.mark.usefixtures("no_choice", "crowded")
def test_a_busy_machine_is_told_once_at_the_first_kernel_of_several_threads(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = pytest.importorskip("fftnet.ops.cpu.threads")
    team = threads.Threads()
    monkeypatch.setattr(team, "_team", lambda body, *_: body(None))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with caplog.at_level(logging.WARNING, logger="fftnet"):
        team.run(lambda first, last: None, 4, 1)
        assert caplog.messages == []
        for _ in range(2):
            team.run(lambda first, last: None, 4, threads.SERIAL_WORK + 1)
    (message,) = caplog.messages
    assert message.startswith(WARNING)
    assert "import fftnet before torch, or set GOMP_SPINCOUNT=4000 before Python starts" in message


@pytest.mark.usefixtures("crowded")
def test_a_busy_machine_is_not_told_to_who_has_chosen(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    warn_if_crowded()
    assert caplog.messages == []


@pytest.mark.usefixtures("no_choice", "crowded")
def test_a_machine_with_cores_to_spare_is_not_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    warn_if_crowded()
    assert caplog.messages == []
