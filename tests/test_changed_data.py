"""Data that change under the same path: a resumed run refuses them, and an evaluation says so."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import fftnet
from fftnet.api.predict import evaluate_classifier
from fftnet.api.train import check_data
from fftnet.cli.main import main
from fftnet.model.config import BackboneConfig
from fftnet.serialization import write_json
from fftnet.training.accelerator import TrainingError

STORY = " ".join(f"Owl {n % 7} sings {n * n % 11}." for n in range(200))
ROWS = "text,label\n" + "".join(f"{'good' if n % 2 else 'bad'} day {n},{n % 2}\n" for n in range(60))


def config(path: str, task: str = "next_token", *, steps: int = 2, **save: Any) -> fftnet.RunConfig:
    return fftnet.RunConfig(
        model=BackboneConfig(d_model=8, num_heads=1, num_layers=1, mixers=("attention",), max_seq_length=16),
        data=fftnet.DataConfig(data=[path], batch_size=4),
        task=fftnet.TaskConfig(task=task),
        budget=fftnet.BudgetConfig(max_steps=4),
        train=fftnet.TrainConfig(progress=True, eval_every=steps),
        accelerator=fftnet.AcceleratorConfig(device="cpu", trackers=["none"]),
        save=fftnet.SaveConfig(output_dir="run", **save),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fftnet.api.train.SAMPLE_TOKENS", 1)
    (tmp_path / "a.txt").write_text(STORY)
    (tmp_path / "a.csv").write_text(ROWS)
    return tmp_path


def test_a_run_is_not_resumed_on_changed_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fftnet.train(config("a.txt"))
    (folder / "run" / "step-00000004").rename(folder / "later")
    resumed = config("a.txt", resume="auto")
    (folder / "a.txt").write_text(STORY + " One more.")
    with pytest.raises(TrainingError) as error:
        fftnet.train(resumed)
    assert str(error.value) == (
        "a.txt has changed since this run began: put it back as it was, or train in another output_dir"
    )
    # The same content from another place and time goes on.
    (folder / "a.txt").unlink()
    (folder / "elsewhere").write_text(STORY)
    shutil.copyfile(folder / "elsewhere", folder / "a.txt")
    os.utime(folder / "a.txt", (0, 0))
    capsys.readouterr()
    fftnet.train(resumed)
    told = capsys.readouterr().err
    assert "resuming run/step-00000002 at step 2" in told
    assert "digest" not in told


@pytest.mark.parametrize("task", ["next_token", "classification"])
def test_data_are_compared_under_the_same_names_only_and_old_runs_get_a_message(
    task: str, tmp_path: Path
) -> None:
    described = {"model": {"num_classes": 2}, "data": {"data": ["a"]}, "task": {"task": task}}
    write_json(tmp_path / "run.json", described | {"data_digest": "old"})
    assert check_data(tmp_path, described, "old") is None
    # A new label changes the model, too.
    with pytest.raises(TrainingError, match="a has changed since this run began"):
        check_data(tmp_path, described | {"model": {"num_classes": 3}}, "new")
    for other in ({"data": {"data": ["b"]}}, {"task": {"task": task, "settings": {}}}):
        assert check_data(tmp_path, described | other, "new") is None
    write_json(tmp_path / "run.json", described)
    message = check_data(tmp_path, described, "new") or ""
    assert "holds no digest of its data: changes of a since are not noticed" in message
    assert ("held-out rows may train now" in message) == (task == "classification")
    # Generated samples have none.
    assert check_data(tmp_path, described, None) is None


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """Return the split of the report, and the text on standard error."""
    capsys.readouterr()
    assert main(["evaluate", "run/last", *words, "--json"]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert "data_digest" not in report
    return report["split"], told.err


def test_an_evaluation_says_that_a_text_has_changed_since_training(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fftnet.train(config("a.txt"))
    shutil.copyfile("a.txt", "copy.txt")
    (folder / "link.txt").symlink_to("a.txt")
    assert evaluated(capsys, "--data", "./a.txt") == ("test", "")
    assert evaluated(capsys, "--data", "copy.txt") == ("test", "")
    for name in ("link.txt", "copy.txt"):
        split, told = evaluated(capsys, "--data", name, "--whole")
        assert split == "all"
        assert f"warning: the model was trained on a part of {name}: the losses are too low" in told
    (folder / "a.txt").write_text(STORY[100:])
    for name in ("./a.txt", "link.txt"):
        split, told = evaluated(capsys, "--data", name)
        assert split == "test, not that of training"
        assert f"warning: not the test split of training ({name} has changed since): the model may" in told


def test_a_classifier_is_measured_on_its_test_split_only_if_the_table_is_the_same(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fftnet.train(config("a.csv", "classification"))
    classifier = fftnet.load_classifier("run/last", device="cpu")
    assert evaluate_classifier(classifier)["split"] == "test"
    assert evaluate_classifier(classifier, fftnet.DataConfig(data=["./a.csv"]))["split"] == "test"
    assert not caplog.records
    shutil.copyfile("a.csv", "copy.csv")
    assert evaluate_classifier(classifier, fftnet.DataConfig(data=["copy.csv"]))["split"] == "all"
    assert caplog.messages == ["the model was trained on a part of copy.csv: the results are too good"]
    with (folder / "a.csv").open("a") as file:
        file.write("a good new day,1\n")
    report = evaluate_classifier(classifier)
    assert report["split"] == "test, not that of training"
    assert "a.csv has changed since training, or an earlier version trained the model" in caplog.text
