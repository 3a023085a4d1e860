"""Training on images: the commands of docs/images.md on a tiny model, and mistakes."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import ROOT, run
from pictures import pictures, write_folder
from PIL import Image

from fftnet.cli.main import main
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.utils.tokenizer import load_tokenizer

PAGE = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
SHORT = "--max_steps 40 --learning_rate 1e-2 --trackers none --no_progress"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three commands of the page have run."""
    folder = tmp_path_factory.mktemp("day")
    write_folder(folder / "photos", 80, size=24)
    write_folder(folder / "new" / "more", 4, size=40, seed=1)
    Image.fromarray(pictures(1, 31, 1, seed=2)[0][0, :, :, 0]).save(folder / "new" / "one.png")
    train, predict, evaluate = re.findall(r"^    (fftnet .*)$", PAGE, re.MULTILINE)
    run(f"{train} {SHORT}", folder)
    assert run(predict, folder).stderr.endswith("answers.csv: 5 rows\n")
    (folder / "report.json").write_text(run(f"{evaluate} --json", folder).stdout)
    texts = SequenceClassifierConfig(vocab_size=257, d_model=8, num_layers=1)
    FFTNetForSequenceClassification(texts).save_pretrained(folder / "texts")
    load_tokenizer("bytes").save(folder / "texts")
    return folder


@pytest.fixture
def day(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_a_folder_becomes_a_model_that_answers_and_is_measured(day: Path) -> None:
    metrics = json.loads((day / "outputs" / "metrics.json").read_text())
    assert metrics["final"].keys() >= {"loss", "accuracy", "macro_f1"}
    rows = metrics["test"]["targets"]
    assert 2 <= rows <= 12
    assert metrics["test"]["accuracy"] == 1.0
    with (day / "answers.csv").open(newline="", encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    assert list(answers[0]) == ["input", "label", "probability", "probability_below", "probability_left"]
    found = {row["input"]: row["label"] for row in answers}
    assert found.pop(str(Path("new", "one.png"))) == "left"
    assert len(found) == 4
    assert all(Path(name).parent.name == label for name, label in found.items())
    report = json.loads((day / "report.json").read_text())
    assert (report["split"], report["rows"], report["accuracy"]) == ("test", rows, 1.0)
    (left, wrong), (other, below) = report["confusion_matrix"]
    assert min(left, below) >= 1
    assert (left + below, wrong, other) == (rows, 0, 0)
    assert (day / "confusion.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((day / "outputs" / "best" / "config.json").read_text())
    assert (config["id2label"], config["causal"]) == ({"0": "below", "1": "left"}, False)


def test_the_code_of_the_page_runs(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, found)
    assert capsys.readouterr().out.endswith("left left\n")
    theirs = found["logits"].detach().softmax(dim=1)
    np.testing.assert_allclose(theirs, found["probabilities"], rtol=1e-4, atol=1e-6)


def test_arrays_are_answered_row_by_row_whatever_their_colours(
    day: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for channels in (1, 3, 4):
        images, labels = pictures(3, 20, channels, seed=5)
        if channels == 4:
            images[..., 3] = 255
        np.savez("rows.npz", images=images)
        assert main(["predict", "outputs/best", "rows.npz"]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [answer["input"] for answer in answers] == [f"rows.npz row {n}" for n in range(3)]
        assert [answer["label"] for answer in answers] == [("left", "below")[label] for label in labels]


def test_models_of_images_are_bidirectional_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("task: image_classification\nspectral:\n  num_anchors: 9\n")
    for flags, causal in (
        ("--task image_classification", False),
        ("", True),
        ("--task=classification", True),
        ("--task image_classification --causal --image_classification.pooling mean", True),
        (f"--config {tmp_path}/run.yaml", False),
    ):
        with pytest.raises(SystemExit):
            main(["train", *flags.split(), "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["causal"] is causal


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("predict outputs/best text.txt", "text.txt holds no images: name an .npz file of images and labels"),
        ("predict outputs/best --text film", "this classifier reads images, name them: fftnet predict"),
        ("predict outputs/best none.png", "none.png does not exist: name an .npz file"),
        ("predict outputs/best cut.png", "cut.png can't be read as an image (image file is truncated"),
        ("predict outputs/best empty", "the folder empty holds no image (.avif"),
        ("evaluate outputs/best --data other", "has the class 'cat', which no training image has"),
        ("predict texts new/one.png", "new/one.png has no columns: name a table"),
        ("predict texts photos", "the folder photos holds no text file"),
        ("train --task classification --data photos", "the folder photos holds no text file"),
        ("train --task image_classification", "--data must name the images: an .npz file"),
        ("train --task image_classification --data photos", "patch_size=16 must divide image_size=24"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: str, sentence: str, day: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").write_text("A text.")
    Path("empty").mkdir(exist_ok=True)
    whole = Path("new/more/left/000.png").read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    write_folder(Path("other"), 4, classes=("left", "cat"))
    words += " --output_dir mistakes" * words.startswith("train")
    assert main(words.split()) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert sentence in last
