"""Several processes: equal losses, one output, checkpoints for any number of them, and dying workers."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from commands import ROOT, shared_forks

from fftnet import serialization
from fftnet.training.manifest import verify

FLAGS = (
    "--d_model 16 --num_heads 4 --num_layers 2 --max_seq_length 160 --num_samples 10 --batch_size 5 "
    "--pattern_complexity 0 --max_steps 8 --eval_every 4 --keep_last 9"
)
TWO = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2"


def start(folder: Path, launcher: str, flags: str) -> subprocess.Popen[str]:
    # Every run gets a free port, because tests run in parallel.
    if launcher.startswith(TWO):
        launcher += " --rdzv-backend c10d --rdzv-endpoint localhost:0"
    return subprocess.Popen(
        [*shlex.split(launcher), str(ROOT / "main.py"), *shlex.split(FLAGS), *shlex.split(flags)],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        # Without this, restarted workers look for each other at the store of the dead ones.
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )


def train(folder: Path, world: int, output: str, flags: str = "") -> None:
    """Train in forked processes."""
    log = folder / f"{output}.log"
    words = shlex.split(f"train {FLAGS} {flags} --output_dir {output}")
    assert shared_forks().run(words, folder, log, log, world) == [0] * world, log.read_text()


def history(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((folder / name / "metrics.json").read_text())["history"]


def final(folder: Path, name: str) -> dict[str, torch.Tensor]:
    verify(folder / name / "last")
    return serialization.read_tensors(folder / name / "last" / "model.safetensors")


def assert_same_run(folder: Path, name: str, other: str = "one") -> None:
    for mine, theirs in zip(history(folder, name), history(folder, other), strict=True):
        for key in ("train_loss", "loss", "first_position_loss", "bits_per_byte", "gradient_norm"):
            assert mine[key] == pytest.approx(theirs[key], rel=2e-5), key
        assert mine["step"] == theirs["step"]
        assert mine["accuracy"] == pytest.approx(theirs["accuracy"], abs=2e-3)
    for (key, mine), theirs in zip(final(folder, name).items(), final(folder, other).values(), strict=True):
        torch.testing.assert_close(
            mine, theirs, rtol=2e-3, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(folder, 1, "one")
    return folder


def test_two_accumulation_steps_are_one_run(folder: Path) -> None:
    train(folder, 1, "accumulated", "--accumulation_steps 2")
    assert_same_run(folder, "accumulated")


def test_two_processes_are_one_run_and_one_prints(folder: Path) -> None:
    """Batches of 5 rows do not even divide by two."""
    run = start(folder, TWO, "--output_dir ddp")
    _, shown = run.communicate(timeout=180)
    assert run.returncode == 0, shown
    assert_same_run(folder, "ddp")
    assert len(re.findall(r"step 4: train", shown)) == 1
    assert len(re.findall(r"parameters \(embedding", shown)) == 1
    assert "on 2 x cpu" in shown
    report = json.loads((folder / "ddp" / "metrics.json").read_text())
    assert report["processes"] == 2


def test_a_sharded_model_is_one_run_with_portable_checkpoints(folder: Path) -> None:
    train(folder, 2, "fsdp", "--strategy fsdp --accumulation_steps 2")
    assert_same_run(folder, "fsdp")
    train(folder, 1, "fsdp-to-one", "--resume fsdp/step-00000004")
    assert_same_run(folder, "fsdp-to-one")
    train(folder, 2, "one-to-fsdp", "--resume one/step-00000004 --strategy fsdp")
    assert_same_run(folder, "one-to-fsdp")


def test_a_sharded_model_in_bf16_with_a_moving_average(folder: Path) -> None:
    flags = "--precision bf16 --ema_decay 0.9 --activation_checkpointing"
    train(folder, 1, "bf16", flags)
    train(folder, 2, "bf16-fsdp", f"{flags} --strategy fsdp")
    both = (history(folder, name) for name in ("bf16-fsdp", "bf16"))
    for mine, theirs in zip(*both, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-3)


def test_a_sharded_model_trains_with_muon(folder: Path) -> None:
    """Muon rounds its updates to bf16, so that runs whose sums differ in the last bit differ more."""
    train(folder, 1, "muon", "--optimizer muon")
    train(folder, 2, "muon-fsdp", "--optimizer muon --strategy fsdp")
    train(folder, 1, "muon-to-one", "--optimizer muon --resume muon-fsdp/step-00000004")
    train(folder, 2, "muon-to-fsdp", "--optimizer muon --resume muon/step-00000004 --strategy fsdp")
    for name in ("muon-fsdp", "muon-to-one", "muon-to-fsdp"):
        for mine, theirs in zip(history(folder, name), history(folder, "muon"), strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        for key, theirs in final(folder, "muon").items():
            torch.testing.assert_close(final(folder, name)[key], theirs, rtol=1e-2, atol=1e-3)
    assert history(folder, "muon")[-1]["loss"] != pytest.approx(history(folder, "one")[-1]["loss"], rel=1e-3)


def test_carried_states_are_split_among_any_number_of_processes(folder: Path) -> None:
    """Five rows; the checkpoint that is gone on from stands in the middle of a stretch of four windows."""
    words = "".join(f"{number} and {number * number} " for number in range(1000))
    (folder / "squares.txt").write_text(words)
    flags = "--data squares.txt --carry_state 4 --max_seq_length 32 --save_every 3"
    flags += " --mixers delta_spectral attention"
    train(folder, 1, "carried", flags)
    train(folder, 2, "carried-ddp", flags)
    assert_same_run(folder, "carried-ddp", "carried")
    train(folder, 1, "carried-to-one", f"{flags} --resume carried-ddp/step-00000006 --accumulation_steps 2")
    assert_same_run(folder, "carried-to-one", "carried")
    train(folder, 2, "carried-to-fsdp", f"{flags} --resume carried/step-00000003 --strategy fsdp")
    assert_same_run(folder, "carried-to-fsdp", "carried")


def test_a_classifier_on_two_processes_is_one_run(folder: Path) -> None:
    """Rows of unlike lengths, so that processes pad differently; the last batch does not divide by two."""
    lines = [f"{'abc'[n % 3] * (n % 7 + 1)} {n},{'xyz'[n % 3]}\n" for n in range(39)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(lines))
    flags = "--task classification --data rows.csv --no_causal --dropout 0"
    train(folder, 1, "classifier", flags)
    train(folder, 2, "classifier-ddp", flags)
    mine, theirs = (history(folder, name) for name in ("classifier-ddp", "classifier"))
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for key in ("train_loss", "loss", "gradient_norm", "accuracy", "macro_f1"):
            assert one[key] == pytest.approx(other[key], rel=2e-5), key
    first, second = (
        json.loads((folder / name / "metrics.json").read_text())["test"]
        for name in ("classifier-ddp", "classifier")
    )
    assert first.pop("weights") == second.pop("weights")
    assert first == pytest.approx(second, rel=2e-4)


def worker(run: subprocess.Popen[str], rank: int, output: Path) -> psutil.Process:
    """The process of a rank, once the first checkpoint is there."""
    deadline = time.monotonic() + 120
    while not (output / "last").exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(run.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def test_a_worker_that_dies_is_replaced_and_the_run_ends_the_same(folder: Path) -> None:
    flags = "--max_steps 60 --eval_every 30 --save_every 5 --batch_size 4"
    train(folder, 2, "whole", flags)
    run = start(folder, f"{TWO} --max-restarts 1", f"{flags} --output_dir healed --resume auto")
    worker(run, 1, folder / "healed").send_signal(signal.SIGKILL)
    _, shown = run.communicate(timeout=180)
    assert run.returncode == 0, shown
    assert "resuming healed/step-" in shown
    assert_same_run(folder, "healed", "whole")


def test_without_restarts_the_death_of_a_worker_ends_the_run_with_a_sentence(folder: Path) -> None:
    run = start(folder, TWO, "--max_steps 100000 --eval_every 3 --save_every 1 --output_dir dead")
    worker(run, 1, folder / "dead").send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, shown = run.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert run.returncode != 0
    assert "error: another process of this run has ended: see its message, and continue with" in shown
    verify(folder / "dead" / "last")


def test_sigterm_to_the_launcher_saves_the_run(folder: Path) -> None:
    run = start(folder, TWO, "--max_steps 100000 --eval_every 100000 --save_every 50 --output_dir asked")
    worker(run, 0, folder / "asked")
    run.send_signal(signal.SIGTERM)
    _, shown = run.communicate(timeout=60)
    assert run.returncode != 0
    found = re.search(r"stopped after step (\d+): --resume continues from (\S+)", shown)
    assert found, shown
    verify(folder / found[2])


def test_a_mistake_is_reported_once(folder: Path) -> None:
    run = start(folder, TWO, "--data nowhere.txt")
    _, shown = run.communicate(timeout=60)
    assert run.returncode != 0
    assert len(re.findall("error: nowhere.txt matches no file", shown)) == 1
