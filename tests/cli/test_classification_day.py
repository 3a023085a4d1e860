"""Classification of texts: the commands of docs/classification.md on a tiny model, and mistakes."""

import csv
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, pipe, run

import fftnet
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
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three commands of the page have run."""
    folder = tmp_path_factory.mktemp("day")
    write(folder / "reviews.csv", 90)
    write(folder / "new.csv", 7, labelled=False)
    write(folder / "held_out.csv", 11)
    train, predict, evaluate, *_ = COMMANDS
    run(f"{train} {TINY}", folder)
    assert run(predict, folder).stderr.endswith("answers.csv: 7 rows\n")
    (folder / "report.json").write_text(run(f"{evaluate} --json", folder).stdout)
    return folder


@pytest.fixture
def day(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_a_table_becomes_a_model_that_answers_and_is_measured(day: Path) -> None:
    metrics = json.loads((day / "outputs" / "metrics.json").read_text())
    assert metrics["final"].keys() >= {"loss", "accuracy", "macro_f1"}
    # About a twentieth of the 30 rows of each class, and one at least.
    assert 3 <= metrics["test"]["targets"] <= 12
    assert metrics["test"]["weights"] == "best"
    with (day / "answers.csv").open(newline="", encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    names = ["bad", "good", "so, so"]
    assert list(answers[0]) == ["text", "label", "probability", *(f"probability_{name}" for name in names)]
    with (day / "new.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["text"] for row in answers] == [row["text"] for row in csv.DictReader(stream)]
    for row in answers:
        assert re.fullmatch(r"[01]\.\d{4}", row["probability"])
        parts = {name: float(row[f"probability_{name}"]) for name in names}
        assert row["label"] == max(parts, key=parts.__getitem__)
        assert float(row["probability"]) == max(parts.values())
        assert sum(parts.values()) == pytest.approx(1, abs=2e-4)
    report = json.loads((day / "report.json").read_text())
    assert report["split"] == "all"
    assert [report["classes"][name]["support"] for name in names] == [4, 4, 3]
    assert [sum(row) for row in report["confusion_matrix"]] == [4, 4, 3]
    assert (day / "confusion.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((day / "outputs" / "best" / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "so, so"}


def ask(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> list[dict[str, Any]]:
    """The answers of ``fftnet predict`` as JSON lines."""
    assert main(["predict", *words]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_single_text_and_lines_of_standard_input_are_classified(
    day: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = fftnet.load_classifier("outputs/best")
    texts = ["what a film", "money back, „bitte“"]
    expected = []
    for text, row in zip(texts, classifier.predict(texts).tolist(), strict=True):
        each = {name: round(p, 4) for name, p in zip(classifier.class_names, row, strict=True)}
        label = max(each, key=each.__getitem__)
        expected.append({"text": text, "label": label, "probability": each[label], "probabilities": each})
    assert ask(["outputs/best", "--text", texts[0]], capsys) == expected[:1]
    for words, line_break in ((["outputs/best"], "\n"), (["outputs/best", "-"], "\r\n")):
        pipe(monkeypatch, b"\xef\xbb\xbf" + line_break.join([*texts, ""]).encode())
        assert ask(words, capsys) == expected
    Path("two.txt").write_text("\n".join(texts), encoding="utf-8")
    assert ask(["outputs/best", "two.txt"], capsys) == expected


def test_an_answer_keeps_the_columns_of_its_row(day: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": 7, "text": "what a film", "label": "good", "probability_good": 1, "more": {"é": [True]}},
        {"text": "dull", "label": None, "new": True, "odd": "\ud800"},
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answers = ask(["outputs/best", "rows.jsonl"], capsys)
    for row, answer in zip(rows, answers, strict=True):
        assert list(answer) == [*row, "predicted_label", "probability", "probabilities"]
        assert {name: answer[name] for name in row} == row
        assert answer["probability"] == answer["probabilities"][answer["predicted_label"]]
    assert ask(["outputs/best", "rows.jsonl", "--output", "rows.csv"], capsys) == []
    with Path("rows.csv").open(newline="", encoding="utf-8") as stream:
        header, first, second = csv.reader(stream)
    columns = ["id", "text", "label", "probability_good", "more", "new", "odd"]
    own = ["predicted_label", "probability"]
    each = ["probability_bad", "predicted_probability_good", "probability_so, so"]
    assert header == columns + own + each
    assert first[:7] == ["7", "what a film", "good", "1", '{"é": [true]}', "", ""]
    assert second[:7] == ["", "dull", "", "", "", "true", "\\ud800"]
    for fields, answer in zip((first, second), answers, strict=True):
        assert fields[7] == answer["predicted_label"]
        assert [float(field) for field in fields[8:]] == [
            answer["probability"],
            *answer["probabilities"].values(),
        ]


def test_an_explicit_text_field_wins_over_that_of_training(
    day: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("outputs/best", "body", dirs_exist_ok=True)
    Path("body/manifest.json").unlink()
    trained = json.loads(Path("body/run.json").read_text())
    trained["data"]["text_field"] = "body"
    Path("body/run.json").write_text(json.dumps(trained))
    Path("both.csv").write_text("text,body,label\nwhat a film,money back,good\ndull,lovely,good\n")
    ways = [
        ask([folder, "both.csv", *flags.split()], capsys)
        for folder, flags in (
            ("outputs/best", "--text_field text"),
            ("body", "--text_field text"),
            ("body", "--text_field body"),
            ("body", ""),
        )
    ]
    assert ways[0] == ways[1] != ways[2]
    assert ways[2] == ways[3]
    losses = []
    for folder, flags in (("outputs/best", ""), ("body", "--text_field text"), ("body", "")):
        assert main(["evaluate", folder, "--data", "both.csv", "--json", *flags.split()]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_classifier_is_measured_in_a_table_with_a_line_for_each_class(
    day: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    report = json.loads((day / "report.json").read_text())
    assert main(["evaluate", "outputs/best", "--data", "held_out.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["checkpoint  outputs/best", "split       all", "rows        11"]
    assert lines[4:6] == [f"accuracy    {report['accuracy']:.4f}", f"macro F1    {report['macro_f1']:.4f}"]
    assert lines[7].split() == ["class", "precision", "recall", "F1", "support"]
    assert [line.rsplit(maxsplit=4)[0] for line in lines[8:]] == ["bad", "good", "so, so"]
    assert [line.split()[-1] for line in lines[8:]] == ["4", "4", "3"]
    assert len({len(line) for line in lines[7:]}) == 1
    assert main(["evaluate", "outputs/best", "--data", "./reviews.csv", "--whole"]) == 0
    assert "the model was trained on a part of ./reviews.csv" in caplog.text


def test_a_language_model_becomes_a_classifier(day: Path) -> None:
    """The two commands of the page; what comes of the first is read by the second."""
    (day / "texts").mkdir()
    (day / "texts" / "all.txt").write_text("what a film, I want my money back\n" * 300)
    read, train = COMMANDS[3:]
    run(f"{read} {TINY}", day)
    shown = run(f"{train} --max_steps 4 --trackers none --no_progress", day).stderr
    assert "starts from reading/best; anew: score.weight\n" in shown


def test_the_code_of_the_page_runs(day: Path) -> None:
    pytest.importorskip("transformers")
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, found)
    assert found["classify"]("what a film")[0]["label"] == found["labels"][0]
    assert found["report"]["split"] == "test"
    metrics = json.loads((day / "outputs" / "metrics.json").read_text())
    assert found["report"]["rows"] == metrics["test"]["targets"]


def test_bad_lines_of_standard_input_are_named(
    day: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for data, sentence in (
        (b"a film\n\nanother\n", "standard input line 2 is an empty text"),
        (b"a film\ncaf\xe9\n", "standard input is not UTF-8 text (byte 10): convert it"),
        (b" \n", "name a file to classify: fftnet predict CHECKPOINT FILE"),
    ):
        pipe(monkeypatch, data)
        assert main(["predict", "outputs/best"]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("generate outputs/best", "outputs/best is a classifier, not a language model: use fftnet predict"),
        ("predict SHIPPED gap.txt", "is no classifier: train one with fftnet train --task classification"),
        (
            "predict outputs/best gap.txt --output gap.jsonl",
            "gap.txt line 2 has an empty text: leave the row",
        ),
        ("predict outputs/best gap.txt --output gap.xml", "output must name a .jsonl or .csv file"),
        ("predict outputs/best none.txt", "none.txt matches no file"),
        ("predict outputs/best good_film", "to classify a text itself, use --text 'good_film'"),
        ("predict outputs/best gap.txt --text film", "give text 'film' or file 'gap.txt', not both"),
        ("predict outputs/best --text=", "--text is an empty text: there is nothing to classify"),
        ("predict outputs/best held_out.csv --output ./held_out.csv", "must not be the file that is classi"),
        ("predict outputs/best -", "or give a text with --text, or texts as lines of standard input"),
        ("predict outputs/best held_out.csv --text_field body", "has no text in field 'body' (its fields:"),
        ("evaluate outputs/best --data ugly.csv", "ugly.csv line 2 has the label 'ugly', which no row of"),
        ("evaluate outputs/best --data new.csv", "has no label in field 'label' (its fields: text)"),
        ("evaluate outputs/best --max_tokens 9", "max_tokens is for language models"),
        ("train --task classification --data gap.txt", "gap.txt has no columns: name a table (.jsonl, .csv"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(
    words: str, sentence: str, day: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, b"")
    Path("gap.txt").write_text("a film\n\nanother\n")
    Path("ugly.csv").write_text("text,label\nhm,ugly\n")
    words += " --output_dir mistakes" * words.startswith("train")
    assert main(words.replace("SHIPPED", str(ROOT / "models" / "shakespeare")).split()) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert sentence in last
    assert not list(day.glob("gap.jsonl*"))
