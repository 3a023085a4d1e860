"""Kills at any instant, signals and full disks: nothing is lost, and resumed runs end with the same bits."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Chain, assert_equal_runs, at_step, make, resumed, saved_step

from fftnet import serialization
from fftnet.training.manifest import verify
from fftnet.training.signals import StopRequest, deferred_signals

ROOT = Path(__file__).parents[2]
SMALL = (
    "--d_model 16 --num_heads 4 --num_layers 1 --max_seq_length 160 --num_samples 16 --batch_size 4 "
    "--pattern_complexity 0 --trackers none --no_progress"
)


def command(flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *shlex.split(SMALL), *shlex.split(flags)]


def kills(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kills.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_runs_killed_at_random_instants_end_bitwise_equal(tmp_path: Path) -> None:
    report = kills("random", str(tmp_path), "0", "8")
    assert report["kills"] == 8
    assert len(set(report["at"])) > 2, "the kills should strike in several steps"
    assert report["equal"]
    assert all(report["equal"])


def test_runs_killed_while_a_checkpoint_is_written_end_bitwise_equal(tmp_path: Path) -> None:
    report = kills("write", str(tmp_path))
    assert len(report) == 10
    for moment, outcome in report.items():
        assert outcome == [True, True, []], moment


def test_a_run_that_forgets_its_generators_does_not_end_equal(tmp_path: Path) -> None:
    assert kills("control", str(tmp_path)) == {"kept": True, "forgotten": False}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_leaves_within_ten_seconds(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    flags = "--max_steps 100000 --eval_every 5"
    run = subprocess.Popen(command(flags), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "outputs" / "last").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asked = time.monotonic()
    run.send_signal(number)
    _, shown = run.communicate(timeout=30)
    assert time.monotonic() - asked < 10
    assert run.returncode == code
    found = re.search(r"stopped after step (\d+): --resume continues from (\S+)", shown)
    assert found, shown
    verify(tmp_path / found[2])
    assert saved_step(tmp_path / "outputs" / "last") == int(found[1])
    assert "Traceback" not in shown


def test_a_second_interrupt_is_raised_at_once_and_a_late_sigterm_is_not() -> None:
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with deferred_signals() as request:
            assert request.number is None
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert request.number == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (None, 143)):
        with pytest.raises(SystemExit) as left:
            StopRequest(number).leave()
        assert left.value.code == code


def test_a_hangup_is_held_back_and_stays_ignored_under_nohup() -> None:
    usual = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with deferred_signals() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.number == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        # nohup ignores the signal; handlers of other code stay, too.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with deferred_signals() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.number is None
    finally:
        signal.signal(signal.SIGHUP, usual)


@pytest.mark.parametrize(("open_output", "last_step"), [(os.pipe, 5), (os.openpty, 7)])
def test_a_run_with_a_closed_output_ends_the_step_and_saves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_output: Callable[[], tuple[int, int]],
    last_step: int,
) -> None:
    """The progress bar fails on a closed pipe; on a closed terminal, only the next line fails."""
    reader, writer = open_output()
    trainer = make(tmp_path, max_steps=12, eval_every=6, progress=True)

    def lose_output() -> None:
        os.close(reader)
        # The bar is drawn every tenth of a second.
        time.sleep(0.15)

    at_step(trainer, 3, lose_output)
    with open(writer, "w", buffering=1, encoding="utf-8") as output:
        monkeypatch.setattr(sys, "stderr", output)
        with pytest.raises(SystemExit) as left:
            trainer.train()
        monkeypatch.undo()
    assert left.value.code == 141
    assert saved_step(tmp_path / "last") == trainer.step == last_step
    verify(tmp_path / "last")


def test_a_signal_cancels_an_evaluation_and_resume_repeats_it(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", max_steps=12, eval_every=3)
    whole.train()
    trainer = make(tmp_path / "part", max_steps=12, eval_every=3)
    evaluate = trainer._evaluate
    trainer._evaluate = lambda stop: evaluate(StopRequest(signal.SIGTERM))
    with pytest.raises(SystemExit):
        trainer.train()
    assert saved_step(tmp_path / "part" / "last") == 3
    assert trainer.state.history == []
    again = resumed(tmp_path)
    assert_equal_runs(again, whole)


def test_a_limit_on_file_sizes_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    report = kills("limit", str(tmp_path))
    assert report["codes"] == [0, 2, 0], report["log"]
    assert report["kept"] == ["step-00000004"]
    assert re.search(
        r"error: the checkpoint .*step-00000008 could not be saved: .*all earlier", report["log"]
    )
    assert "Traceback" not in report["log"]


def test_a_full_disk_says_how_much_is_missing_and_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    """A real file system of 360 kB, mounted in a private namespace."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets users mount nothing; the other two tests of full disks stand in")
    disk = tmp_path / "disk"
    disk.mkdir()
    run = shlex.join(command(f"--eval_every 4 --max_steps 8 --output_dir {disk}/outputs"))
    script = (
        f"mount -t tmpfs -o size=360k tmpfs {disk} && {{ {run}; echo exit $?; "
        f"ls {disk}/outputs; cp -r {disk}/outputs/step-00000004 {tmp_path}/kept; }}"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert "exit 2" in done.stdout, done.stderr
    found = re.search(
        r"step-00000008 could not be saved: the disk is full, ([\d,]+) bytes are missing", done.stderr
    )
    assert found, done.stderr
    assert 0 < int(found[1].replace(",", "")) < 360_000
    assert ".tmp" not in done.stdout
    verify(tmp_path / "kept")


def test_a_batch_without_targets_is_not_skipped(tmp_path: Path) -> None:
    class Hollow(Chain):
        def rows(self, epoch: int, index: int) -> torch.Tensor:
            return torch.full((8, 17), -1) if index == 1 else super().rows(epoch, index)

    trainer = make(tmp_path, train=Hollow(), max_steps=4, eval_every=4)
    trainer.train()
    assert trainer.state.skipped == 0
    kept = serialization.read_tensors(tmp_path / "last" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
