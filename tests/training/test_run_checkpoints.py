"""Checkpoints of a run: damaged ones are named, the newest intact one is resumed, other runs are refused."""

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import assert_equal_runs, interrupted, make, resumed, saved_step, weights
from torch import Tensor

from fftnet import serialization
from fftnet.serialization import CheckpointError
from fftnet.training.accelerator import TrainingError
from fftnet.training.manifest import MANIFEST_FILE, seal, verify

FILES = ("model.safetensors", "training.safetensors", "training.json", "config.json")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_full_disk_says_how_many_bytes_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, max_steps=4, eval_every=4).train()
    replacing = make(tmp_path, max_steps=6, eval_every=6, overwrite=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(serialization, "save_file", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    message = r"the disk is full, [67]\d,\d{3} bytes are missing: .*all earlier ones are kept"
    with pytest.raises(CheckpointError, match=message):
        replacing.train()
    assert saved_step(tmp_path / "last") == 4
    verify(tmp_path / "last")
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, MANIFEST_FILE])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, name: str, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    store = make(tmp_path, keep_last=3).checkpointer

    def fill(folder: Path) -> None:
        for file in FILES:
            (folder / file).write_text(json.dumps({"of": file, "digits": list(range(50))}))

    for step in (1, 2):
        store.write(step, fill, 10)
    damage(tmp_path / "step-00000002" / name)
    found, problems = store.newest_intact()
    assert found == tmp_path / "step-00000001"
    [problem] = map(str, problems.values())
    assert f"step-00000002/{name} is " in problem or damage is flip
    assert "take another checkpoint" in problem or "is missing" in problem


def test_resume_skips_a_damaged_checkpoint_and_still_ends_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = interrupted(tmp_path)
    flip(tmp_path / "part" / "step-00000006" / "training.safetensors")
    again = resumed(tmp_path)
    shown = capfd.readouterr().err
    assert "skipped: " in shown
    assert "step-00000006/training.safetensors is damaged" in shown
    assert "step-00000003 at step 3" in shown
    assert_equal_runs(again, whole)


def test_a_damaged_checkpoint_that_is_asked_for_is_refused_by_name(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for path in (tmp_path / "part").glob("step-*"):
        truncate(path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"last/model\.safetensors is truncated, take .*: \d+ of \d+"):
        resumed(tmp_path, resume=str(tmp_path / "part" / "last"))
    with pytest.raises(TrainingError, match=r"no checkpoint in .*part is intact: train in another output"):
        resumed(tmp_path)


def change(folder: Path, kind: str, changed: dict[str, Tensor | None]) -> None:
    """Change tensors of a checkpoint (None: remove) and let its manifest agree."""
    path = folder / f"{kind}.safetensors"
    tensors = serialization.read_tensors(path) | changed
    serialization.write_tensors(path, {name: x for name, x in tensors.items() if x is not None})
    (folder / MANIFEST_FILE).unlink()
    seal(folder)


@pytest.mark.parametrize("dropped", ["rng.0", "state.0.weight.exp_avg"])
def test_resume_needs_everything_that_is_stored(tmp_path: Path, dropped: str) -> None:
    whole = interrupted(tmp_path)
    newest = tmp_path / "part" / "step-00000006"
    generator = torch.Generator().manual_seed(5).get_state()
    moment = serialization.read_tensors(newest / "training.safetensors")[dropped]
    change(newest, "training", {dropped: generator if dropped == "rng.0" else -moment})
    assert not torch.equal(weights(resumed(tmp_path)), weights(whole))


def test_a_checkpoint_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    interrupted(tmp_path)
    change(tmp_path / "part" / "step-00000006", "training", {"state.2.bias.exp_avg": None})
    with pytest.raises(CheckpointError, match=r"lacks or should not hold state\.2\.bias\.exp_avg"):
        resumed(tmp_path)
    change(tmp_path / "part" / "step-00000006", "model", {"2.bias": torch.zeros(9)})
    with pytest.raises(CheckpointError, match=r"holds 2\.bias of shape \(9,\), not \(8,\)"):
        resumed(tmp_path)


def test_resume_refuses_another_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, max_steps=4, resume="auto").train()
    assert f"nothing to resume in {tmp_path}: a new run starts" in capfd.readouterr().err
    with pytest.raises(TrainingError, match=r"was trained with other settings \(budget\.steps 4, not 5\)"):
        make(tmp_path, max_steps=5, resume="auto").train()
    other = make(tmp_path, max_steps=4, resume="auto")
    other.checkpointer.settings["run"] = {"model": "trigram"}
    with pytest.raises(TrainingError, match=r"other settings \(run\.model bigram, not trigram\)"):
        other.train()


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    make(tmp_path, max_steps=2).train()
    kinds = {path.suffix for path in (tmp_path / "last").iterdir()}
    assert kinds == {".json", ".safetensors"}
    for path in (tmp_path / "last").glob("*.json"):
        json.loads(path.read_text())


def test_checkpoints_are_written_between_evaluations(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=7, eval_every=7, save_every=2, keep_last=9)
    trainer.train()
    assert sorted(path.name[-1] for path in tmp_path.glob("step-*")) == ["2", "4", "6", "7"]
    trainer = make(tmp_path / "often", max_steps=3, eval_every=3, save_minutes=1e-9, keep_last=9)
    trainer.train()
    assert sorted(path.name[-1] for path in (tmp_path / "often").glob("step-*")) == ["1", "2", "3"]
