"""A day with labelled texts: the commands of docs/classification.md, as they stand, on a tiny model."""

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, run

from fftnet.cli.main import main

PAGE = (ROOT / "docs" / "classification.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (fftnet .*)$", PAGE, re.MULTILINE)
TINY = (
    "--d_model 16 --num_heads 4 --num_layers 1 --max_seq_length 48 --max_steps 40 --trackers none "
    "--no_progress"
)
WORDS = {"good": ["lovely", "what a film"], "bad": ["dull", "money back"], "so, so": ["well", "hm"]}


def write(path: Path, count: int, labelled: bool = True, classes: dict[str, list[str]] = WORDS) -> None:
    """Reviews that a word of each gives away, of any length, with commas, quotes and line breaks."""
    rng = random.Random(count)
    rows = []
    for number in range(count):
        label = list(classes)[number % len(classes)]
        text = " ".join([rng.choice(classes[label]), *rng.choices(['a "b"', "c,", "d\ne"], k=number % 5)])
        rows.append({"text": text} | ({"label": label} if labelled else {}))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three commands of the page have run."""
    folder = tmp_path_factory.mktemp("day")
    write(folder / "reviews.csv", 90)
    write(folder / "new.csv", 7, labelled=False)
    write(folder / "held_out.csv", 11)
    train, predict, evaluate, *_ = COMMANDS
    run(f"{train} {TINY}", folder)
    assert run(predict, folder).stderr.endswith("answers.csv: 7 rows\n")
    (folder / "report.json").write_text(run(evaluate, folder).stdout)
    return folder


def test_a_table_becomes_a_model_that_answers_and_is_measured(day: Path) -> None:
    metrics = json.loads((day / "outputs" / "metrics.json").read_text())
    assert metrics["final"].keys() >= {"loss", "accuracy", "macro_f1"}
    # A twentieth of the 30 rows of each class, rounded, is two.
    assert metrics["test"]["targets"] == 6
    assert metrics["test"]["weights"] == "best"
    with (day / "answers.csv").open(newline="", encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    names = ["bad", "good", "so, so"]
    assert list(answers[0]) == ["input", "label", "probability", *(f"probability_{name}" for name in names)]
    assert len({row["input"] for row in answers}) == 7
    assert answers[0]["input"] == "new.csv line 2"
    for row in answers:
        parts = {name: float(row[f"probability_{name}"]) for name in names}
        assert row["label"] == max(parts, key=parts.__getitem__)
        assert float(row["probability"]) == max(parts.values())
        assert sum(parts.values()) == pytest.approx(1, abs=1e-5)
    report = json.loads((day / "report.json").read_text())
    assert report["split"] == "all"
    assert [report["classes"][name]["support"] for name in names] == [4, 4, 3]
    assert [sum(row) for row in report["confusion_matrix"]] == [4, 4, 3]
    assert (day / "confusion.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((day / "outputs" / "best" / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "so, so"}


def test_a_language_model_becomes_a_classifier(day: Path) -> None:
    """The two commands of the page; what comes of the first is read by the second."""
    (day / "texts").mkdir()
    (day / "texts" / "all.txt").write_text("what a film, I want my money back\n" * 300)
    read, train = COMMANDS[3:]
    run(f"{read} {TINY}", day)
    shown = run(f"{train} --max_steps 4 --trackers none --no_progress --output_dir started", day).stderr
    assert "starts from reading/best; anew: score.weight\n" in shown


def test_the_code_of_the_page_runs(day: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(day)
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, found)
    assert found["classify"]("what a film")[0]["label"] == found["labels"][0]
    assert found["report"]["split"] == "test"
    assert found["report"]["rows"] == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("generate outputs/best", "outputs/best is a classifier, not a language model: use fftnet predict"),
        ("export outputs/best", "outputs/best is a classifier, not a language model: use fftnet predict"),
        ("predict SHIPPED gap.txt", "is no classifier: train one with fftnet train --task classification"),
        ("predict outputs/best", "name a file to classify: fftnet predict CHECKPOINT FILE"),
        (
            "predict outputs/best gap.txt --output gap.jsonl",
            "gap.txt line 2 has an empty text: leave the row",
        ),
        ("predict outputs/best gap.txt --output gap.xml", "output must name a .jsonl or .csv file"),
        ("predict outputs/best none.txt", "none.txt matches no file"),
        ("predict outputs/best empty.csv", "empty.csv has no rows"),
        ("predict outputs/best empty.txt", "empty.txt is empty"),
        ("predict outputs/best latin.csv", "latin.csv is not UTF-8 text after line"),
        (
            "predict outputs/best held_out.csv --text_field body",
            "has no text in field 'body' (its fields:",
        ),
        ("evaluate outputs/best --data ugly.csv", "ugly.csv line 2 has the label 'ugly', which no row of"),
        (
            "evaluate outputs/best --data new.csv",
            "has no label in field 'label' (its fields: text)",
        ),
        ("evaluate outputs/best --max_tokens 9", "max_tokens is for language models"),
        ("train --task classification", "classification needs texts with labels: name a table with data"),
        ("train --task classification --data gap.txt", "gap.txt has no columns: name a table (.jsonl, .csv"),
        ("train --task classification --data held_out.csv --carry_state 2", "carry_state is for language"),
        ("train --task classification --data held_out.csv --reset_at_documents", "reset_at_documents is for"),
        (
            "train --classification.pooling last",
            "settings of --classification change nothing",
        ),
        (
            "train --task classification --classification.pooling max",
            "unknown pooling 'max'; choose from",
        ),
    ],
)
def test_what_can_not_be_done_is_one_sentence_and_leaves_no_file(
    words: str, sentence: str, day: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(day)
    Path("gap.txt").write_text("a film\n\nanother\n")
    Path("empty.csv").write_text("")
    Path("empty.txt").write_text("")
    Path("latin.csv").write_bytes("text\nun café\n".encode("latin-1"))
    Path("ugly.csv").write_text("text,label\nhm,ugly\n")
    assert main(words.replace("SHIPPED", str(ROOT / "models" / "shakespeare")).split()) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert sentence in last
    assert not list(day.glob("gap.jsonl*"))
