"""The output folder: no other run and no file of the user is lost, and one run at a time writes."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from runs import at_step, make, saved_step

import fftnet
from fftnet import BudgetConfig, DataConfig, RunConfig, TaskConfig
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE, CheckpointError
from fftnet.training.accelerator import TrainingError
from fftnet.training.checkpointer import RESUMABLE
from fftnet.training.manifest import checkpoints, newest_checkpoint, seal, verify
from fftnet.training.run_folder import SaveConfig, claimed

REFUSED = (
    r"holds the checkpoints of another run: add --resume to continue it, --overwrite to replace it, or "
    r"choose another --output_dir$"
)


def fill(folder: Path) -> None:
    for name in RESUMABLE:
        (folder / name).write_text("content")


def checkpoint(folder: Path, name: str = "step-00000004") -> Path:
    """A folder that looks like the checkpoint of a run."""
    path = folder / name
    path.mkdir(parents=True)
    fill(path)
    seal(path)
    return path


def claim(folder: Path, **fields: Any) -> None:
    with claimed(SaveConfig(output_dir=str(folder), **fields)):
        pass


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder, with the bytes of files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_run_into_the_folder_of_another_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path, max_steps=1).train()
    before = contents(tmp_path)
    for save_model in (True, False):
        trainer = make(tmp_path, max_steps=1, save_model=save_model)
        with pytest.raises(TrainingError, match=REFUSED):
            trainer.train()
        assert trainer.step == 0
        assert contents(tmp_path) == before


@pytest.mark.parametrize("task", ["next_token", "classification", "image_classification"])
def test_training_from_python_is_refused_before_data_are_read(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path)
    before = contents(tmp_path)
    config = RunConfig(
        task=TaskConfig(task=task),
        data=DataConfig(data=[str(tmp_path / "nowhere.csv")]),
        budget=BudgetConfig(max_steps=1),
        save=SaveConfig(output_dir=str(tmp_path)),
    )
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(TrainingError, match=REFUSED):
            fftnet.train(config)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.json", "loss_plot.png"])
def test_the_results_of_a_run_without_checkpoints_are_not_replaced_either(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of another run")
    with pytest.raises(TrainingError, match=rf"holds the results of another run \({name}\): add --overwrite"):
        claim(tmp_path, save_model=False)
    claim(tmp_path, save_model=False, overwrite=True)
    claim(tmp_path, resume="auto")


def test_resuming_another_run_or_an_earlier_checkpoint_deletes_nothing(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other")
    for step in (4, 6):
        checkpoint(tmp_path / "run", f"step-{step:08d}")
    (tmp_path / "run" / "last").symlink_to("step-00000006")
    with pytest.raises(TrainingError, match=r"the checkpoints of another run than \S+: give --resume"):
        claim(tmp_path / "run", resume=str(other))
    with pytest.raises(TrainingError, match=r"later checkpoints than \S+, up to step-00000006: give --re"):
        claim(tmp_path / "run", resume=str(tmp_path / "run" / "step-00000004"))
    claim(tmp_path / "run", resume=str(tmp_path / "run" / "last"))
    claim(tmp_path / "new", resume=str(other))
    with pytest.raises(ValueError, match="resume continues a run and overwrite replaces it: leave one"):
        SaveConfig(resume="auto", overwrite=True)


def test_a_killed_overwrite_leaves_the_other_run_or_its_own_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs save the same step, which is all that the other one has."""
    other = checkpoint(tmp_path)
    rename = Path.rename

    def fill_mine(folder: Path) -> None:
        fill(folder)
        (folder / "mine").touch()

    for fatal in (1, 2):
        store = make(tmp_path, overwrite=True).checkpointer
        calls = 0

        def dying(*paths: Path, fatal: int = fatal) -> Path:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise SystemExit
            return rename(*paths)

        monkeypatch.setattr(Path, "rename", dying)
        with store.claimed(), pytest.raises(SystemExit):
            store.write(4, fill_mine, 10)
        monkeypatch.undo()
        with pytest.raises(TrainingError, match=REFUSED):
            claim(tmp_path)
        verify(other)
        assert not (other / "mine").exists()
    store = make(tmp_path, overwrite=True).checkpointer
    with store.claimed():
        store.write(4, fill_mine, 10)
    assert (other / "mine").exists()
    assert {path.name for path in tmp_path.glob("step-*")} == {other.name}


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".fftnet.lock").touch()
    trainer = make(tmp_path, max_steps=2, eval_every=1)
    refused = []

    def second_run() -> None:
        with ThreadPoolExecutor(1) as pool:
            refused.append(pool.submit(claim, tmp_path, resume="auto").exception())
            refused.append(pool.submit(claim, tmp_path).exception())

    at_step(trainer, 1, second_run)
    trainer.train()
    for error in refused:
        assert isinstance(error, TrainingError)
        assert str(error).startswith(f"another run is writing into {tmp_path}: wait for its end, stop it, or")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(claim, tmp_path, resume="auto").exception() is None


def test_checkpoints_are_ordered_by_step_not_by_time(tmp_path: Path) -> None:
    store = make(tmp_path, keep_last=2).checkpointer
    tomorrow = 2_000_000_000
    for step in (9, 10, 11):
        path = store.write(step, fill, 10)
        if step < 11:
            os.utime(path / "manifest.json", (tomorrow, tomorrow))
        store.drop(best=None)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000011", "step-00000010"]
    verify(tmp_path / "last")
    assert store.newest_intact() == (tmp_path / "step-00000011", {})


def test_the_newest_checkpoint_and_linked_ones_are_never_deleted(tmp_path: Path) -> None:
    """A damaged checkpoint of a higher step stays, and does not count among the newest ones."""
    store = make(tmp_path, keep_last=1).checkpointer
    for step in (2, 3, 8):
        store.write(step, fill, 10)
    store.link("best", tmp_path / "step-00000002")
    store.newest = store.write(5, fill, 10)
    store.drop(best=None)
    names = {path.name for path in tmp_path.glob("step-*")}
    assert names == {"step-00000002", "step-00000005", "step-00000008"}
    # Somebody has deleted the damaged one before the run comes to its step again.
    shutil.rmtree(tmp_path / "step-00000008")
    verify(store.write(8, fill, 10))


def test_checkpoints_of_other_settings_are_passed_over_and_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that replaces another may be killed before the checkpoints of that one are gone."""
    make(tmp_path, max_steps=4, learning_rate=0.01, eval_every=4).train()
    shutil.copytree(tmp_path / "step-00000004", tmp_path / "kept")
    make(tmp_path, max_steps=2, eval_every=2, overwrite=True).train()
    (tmp_path / "kept").rename(tmp_path / "step-00000004")
    again = make(tmp_path, max_steps=2, eval_every=2, resume="auto")
    again.train()
    assert again.step == 2
    shown = capfd.readouterr().err
    assert "step-00000004 was trained with other settings" in shown
    again.checkpointer.drop(best=None)
    assert saved_step(tmp_path / "step-00000004") == 4


def test_folders_of_the_user_are_left_alone(tmp_path: Path) -> None:
    told: list[str] = []
    mine = ("step-00000001", "step-00000002", "step-mine", "step-2", "step-mine.tmp", "step-7.replaced")
    for name in (*mine, "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text(name)
    (tmp_path / "last").write_text("last")
    store = make(tmp_path, keep_last=1).checkpointer
    store._message = told.append
    with store.claimed():
        for step in (2, 3, 4):
            path = store.write(step, fill, 10)
            store.link("best", path)
            store.drop(best=None)
    moved = {"step-00000002": "step-00000002.old1", "best": "best.old1"}
    for name in (*mine, "best"):
        assert (tmp_path / moved.get(name, name) / "notes.txt").read_text() == name
    assert (tmp_path / "last.old1").read_text() == "last"
    assert sorted(line.partition(" ")[0] for line in told) == [
        str(tmp_path / name) for name in ("best", "last", "step-00000002")
    ]
    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {"best", "last"}
    verify(tmp_path / "last")


def reseal(path: Path) -> None:
    (path / "manifest.json").unlink()
    seal(path)


def replaced(file: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return an attack that replaces a file of a checkpoint."""

    def attack(path: Path) -> None:
        (path / file).unlink()
        make(path / file)

    return attack


def naming(name: str) -> Callable[[Path], None]:
    """Return an attack that lets a manifest name another file."""

    def attack(path: Path) -> None:
        shutil.copy(path / "training.json", path.parent)
        text = (path / "manifest.json").read_text()
        other = name.replace("ABOVE", str(path.parent))
        (path / "manifest.json").write_text(text.replace("training.json", other))

    return attack


def without_weights(path: Path) -> None:
    (path / WEIGHTS_FILE).rename(path.parent / "moved")
    reseal(path)
    (path.parent / "moved").rename(path / WEIGHTS_FILE)


def a_device(path: Path) -> None:
    # The size in the manifest is 0, as the one that the device reports.
    (path / "training.json").write_text("")
    reseal(path)
    replaced("training.json", lambda file: file.symlink_to("/dev/zero"))(path)


MANIFEST = "manifest.json is damaged, take another checkpoint: "
IRREGULAR = "is damaged, take another checkpoint: it is not a regular file"
ATTACKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (without_weights, f"{MANIFEST}it does not name model.safetensors"),
    "no config": (lambda path: (path / CONFIG_FILE).write_text("{}"), f"{MANIFEST}it does not name config"),
    "deep JSON": (lambda path: (path / "manifest.json").write_text("[" * 200_000), MANIFEST),
    "pipe": (replaced("manifest.json", os.mkfifo), f"manifest.json {IRREGULAR}"),
    "folder": (replaced("manifest.json", os.mkdir), f"manifest.json {IRREGULAR}"),
    "endless": (
        replaced("manifest.json", lambda file: file.symlink_to("/dev/zero")),
        f"manifest.json {IRREGULAR}",
    ),
    "absolute name": (naming("ABOVE/training.json"), f"{MANIFEST}see its entry"),
    "name above": (naming("../training.json"), f"{MANIFEST}see its entry"),
    "no name": (naming("\\ud800"), f"{MANIFEST}see its entry"),
    "named pipe": (replaced("training.json", os.mkfifo), f"training.json {IRREGULAR}"),
    "named device": (a_device, f"training.json {IRREGULAR}"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_manifest_is_reported_and_passed_over(tmp_path: Path, name: str) -> None:
    attack, sentence = ATTACKS[name]
    store = make(tmp_path / "run").checkpointer
    for step in (1, 2):
        path = store.write(step, fill, 10)
    attack(path)
    found, problems = store.newest_intact()
    assert found == tmp_path / "run" / "step-00000001"
    [problem] = problems.values()
    assert isinstance(problem, CheckpointError)
    assert f"step-00000002/{sentence}" in str(problem)


def test_a_model_without_training_state_is_whole(tmp_path: Path) -> None:
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (tmp_path / name).write_text("{}")
    seal(tmp_path)
    verify(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        verify(tmp_path)


def test_the_newest_run_is_the_one_whose_last_checkpoint_is_newest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint under .*: train a model .*models/shakespeare"):
        newest_checkpoint(tmp_path)

    def model(name: str, time: int) -> None:
        (tmp_path / name).mkdir(parents=True)
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            (tmp_path / name / file).touch()
            os.utime(tmp_path / name / file, (time, time))

    model("a/step-00000009", time=90)
    model("a/step-00000010", time=20)
    assert newest_checkpoint(tmp_path).name == "step-00000010"
    model("b/step-00000001", time=30)
    assert newest_checkpoint(tmp_path) == tmp_path / "b" / "step-00000001"
    (tmp_path / "b" / "best").symlink_to("step-00000001")
    assert newest_checkpoint(tmp_path) == tmp_path / "b" / "best"
    # Neither of these is whole, and the model beside the runs is no part of them.
    model("b/step-00000002.tmp", time=99)
    model("b/step-00000001.replaced", time=99)
    model("copy", time=40)
    (tmp_path / "best").symlink_to("a/step-00000009")
    assert newest_checkpoint(tmp_path) == tmp_path / "copy"
