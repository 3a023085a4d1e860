"""The busy suite: the neighbour is busy, the cases differ in what they claim, ratios are against quiet."""

import subprocess
import sys
from typing import Any

import psutil
import pytest
import torch

from benchmarks import baselines, busy, jobs
from benchmarks.measure import OURS, TimeBudget
from benchmarks.settings import Settings
from fftnet.wait_policy import WAIT_POLICY

TINY = Settings(
    time_budget=TimeBudget(seconds=0.0, slow=60.0, stop=60.0),
    busy=(2, 8),
    busy_train_runs=3,
    busy_decode_runs=5,
    steps=2,
)


def test_the_neighbour_is_busy_and_then_gone() -> None:
    with busy.busy_neighbour() as neighbour:
        process = psutil.Process(neighbour.pid)
        before = process.cpu_times().user
        while process.cpu_times().user < before + 0.05:
            assert neighbour.poll() is None
    assert neighbour.poll() is not None
    with pytest.raises(ZeroDivisionError), busy.busy_neighbour() as neighbour:
        raise ZeroDivisionError
    assert neighbour.poll() is not None


def test_a_neighbour_ends_when_its_parent_is_killed() -> None:
    command = f"[sys.executable, '-c', {busy.NEIGHBOUR!r}, str(os.getpid())]"
    code = f"import os, subprocess, sys; print(subprocess.Popen({command}).pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        neighbour = psutil.Process(int(parent.stdout.readline()))
        assert neighbour.is_running()
        parent.kill()
    neighbour.wait(timeout=20)


def test_one_policy_at_a_time_reaches_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environments = [busy.environment(policy) for policy in busy.POLICIES.values()]
    seen = [{name: found[name] for name in names & found.keys()} for found in environments]
    assert seen == [{}, {"OMP_WAIT_POLICY": "PASSIVE"}, dict(WAIT_POLICY)]
    assert busy.environment({})["PATH"]


def test_every_case_is_measured_quiet_and_beside_one_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[str, str, int]] = []
    others = len(psutil.Process().children())

    def run_job(_: Any, environment: dict[str, str], /, *, side: str, **sizes: int) -> busy.Times:
        policy = next(
            name for name, chosen in busy.POLICIES.items() if busy.environment(chosen) == environment
        )
        neighbours = len(psutil.Process().children()) - others
        cases.append((side, policy, neighbours))
        assert sizes == {"batch": 2, "tokens": 8, "train_runs": 3, "steps": 2, "decode_runs": 5}
        factor = 3.0 if neighbours else 1.0
        return {baselines.TRAIN: [2.0, 4.0 * factor, 8.0 * factor], baselines.STEP: [0.5 * factor]}

    monkeypatch.setattr(jobs, "run_job", run_job)
    rows = list(busy.busy(TINY))
    assert cases == [
        (side, policy, neighbours)
        for side in ("ours", "attention")
        for policy in ("default", "OMP_WAIT_POLICY=PASSIVE", "GOMP_SPINCOUNT=4000")
        for neighbours in (0, 1)
    ]
    assert len(rows) == 2 * len(cases)
    quiet, crowded, _, decode = rows[:4]
    same = {"side": OURS, "policy": "default", "work": "training step", "batch": 2, "tokens": 8}
    assert all(same.items() <= row.items() for row in (quiet, crowded))
    assert (quiet["neighbour"], quiet["seconds"], quiet["times_quiet"]) == (False, 4.0, None)
    assert (crowded["neighbour"], crowded["seconds"], crowded["times_quiet"]) == (True, 12.0, 3.0)
    assert crowded["times_quiet_quartiles"] == [7.0 / 4.0, 18.0 / 4.0]
    assert (decode["work"], decode["tokens"], decode["times_quiet"]) == ("decode step", 256, 3.0)


@pytest.mark.parametrize("side", list(baselines.LANGUAGE_MODELS))
def test_steps_train_and_decode_the_default_model(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    default_model = baselines.default_model
    monkeypatch.setattr(
        baselines, "default_model", lambda name: models.append(default_model(name)) or models[-1]
    )
    times = busy.measure_steps(side, batch=2, tokens=8, train_runs=2, steps=2, decode_runs=3)
    assert {work: len(taken) for work, taken in times.items()} == {"training step": 2, "decode step": 3}
    assert all(seconds > 0 for taken in times.values() for seconds in taken)
    (model,) = models
    torch.manual_seed(0)
    start = default_model(side)
    assert model.config.d_model == 128
    assert all(
        not torch.equal(now, then) for now, then in zip(model.parameters(), start.parameters(), strict=True)
    )
