"""Tables with labels: every kind of file gives the same rows, splits hold all classes, batches all rows."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fftnet.data.errors import DataError
from fftnet.data.labelled import (
    POOL,
    LabelledBatches,
    LabelledTexts,
    class_indices,
    encode_texts,
    find_classes,
    read_labelled,
    read_text_rows,
    stratified_split,
)
from fftnet.data.splits import TEST, TRAIN, VALID
from fftnet.utils.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")
ROWS = [
    {"id": 1, "text": 'a "quoted", word', "label": "x"},
    {"id": 2, "text": "two\nlines\tand a tab", "label": "y"},
    {"id": 3, "text": "naïve", "label": "x"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A file of rows, by its suffix."""
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_table_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    path = str(tmp_path / f"a{suffix}")
    write(Path(path), ROWS)
    rows = read_labelled([path], "text", "label")
    assert rows.texts == [row["text"] for row in ROWS]
    assert rows.labels == ["x", "y", "x"]
    # A row that is shown with its answer keeps all of its columns.
    whole = [row.values for row in read_text_rows(path, "text")]
    kept = [[(name, str(value)) for name, value in row.items()] for row in (*whole, *ROWS)]
    assert kept[:3] == kept[3:]
    assert all(f"a{suffix} " in name for name in rows.names)
    with pytest.raises(DataError, match=r"no label in field 'class' \(its fields: .*text.*\); set lab"):
        read_labelled([path], "text", "class")


def test_rows_of_a_hugging_face_dataset_are_read_alike_and_numbered_labels_have_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "a.csv", ROWS)
    rows = read_labelled([f"hf:{tmp_path / 'a.csv'}"], "text", "label")
    assert (rows.texts, rows.labels) == ([row["text"] for row in ROWS], ["x", "y", "x"])
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    for name, labels in (("whole", [1, 0]), ("lacking", [1, 0, -1])):
        columns = {"text": ["a", "b", "c"][: len(labels)], "label": labels}
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / name)
    assert read_labelled([f"hf:{tmp_path}/whole"], "text", "label").labels == ["good", "bad"]
    with pytest.raises(DataError, match="row 3 has an empty 'label'"):
        read_labelled([f"hf:{tmp_path}/lacking"], "text", "label")


def test_lines_of_a_text_file_are_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\nthree")
    rows = read_text_rows(str(tmp_path / "a.txt"), "text")
    assert [row.values for row in rows] == [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    assert rows[2].name.endswith("a.txt line 3")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,label\na,x\nb\n", r"a.csv line 3 has not 2 fields as the first line: quote its text"),
        ("a.csv", "text,label\na,x,y\n", r"a.csv line 2 has not 2 fields"),
        ("a.csv", 'text,label\n"a" b,x\n', r"a.csv line 2 is no table"),
        ("a.csv", "text;label\na;x\n", r"a.csv has a semicolon between its fields, where a comma belongs"),
        ("a.tsv", "text,label\na,x\n", r"a.tsv has a comma between its fields, where a tab belongs"),
        ("a.csv", "text,label\n", r"a.csv has no rows"),
        ("a.csv", "text,label\n  ,x\n", r"a.csv line 2 has an empty text: leave the row out"),
        ("a.csv", "text,label\na,\n", r"a.csv line 2 has an empty 'label': give it a label, or leave"),
        ("a.jsonl", '{"text": "a", "label": null}', r"a.jsonl line 1 has an empty 'label'"),
        ("a.csv", b"text,label\na,x\n\xff,y\n", r"a.csv is not UTF-8 text after line \d: convert it"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', r"line 1 has the label 0.5: labels are strings, int"),
        ("a.jsonl", '{"text": 3, "label": "x"}', r"a.jsonl line 1 has no text in field 'text'"),
        ("a.csv", "text,label,label\na,x,y\n", r"a.csv has the column 'label' twice: rename or remove one"),
        ("a.tsv", "text\ttext\tlabel\na\tb\ty\n", r"a.tsv has the column 'text' twice: rename or remove"),
        ("a.jsonl", '{"text": "a", "label": 1, "label": 2}', r"a.jsonl line 1 has the column 'label' twice"),
        ("a.jsonl", '{"text": "a", "label": "\\udcff"}', r"a.jsonl line 1: character 0 is a lone surrogate"),
        ("a.md", "text", r"a.md has no columns: name a table \(.jsonl, .csv"),
    ],
)
def test_a_damaged_table_is_a_sentence(
    name: str, content: str | bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=sentence):
        read_labelled([str(tmp_path / name)], "text", "label")


def test_a_doubled_column_of_a_parquet_file_is_named_and_empty_names_are_no_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_arrays([["a"], ["x"], ["y"]], names=["text", "label", "label"])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has the column 'label' twice: rename or remove one"):
        read_labelled([str(tmp_path / "a.parquet")], "text", "label")
    (tmp_path / "b.csv").write_text("text,label,,\na,x,,\n")
    assert read_labelled([str(tmp_path / "b.csv")], "text", "label").labels == ["x"]


def test_classes_are_sorted_as_numbers_where_all_are_integers(tmp_path: Path) -> None:
    assert find_classes(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert find_classes(["10", "9", "a"]) == ("10", "9", "a")
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"text": "t", "label": {x}}}' for x in ("true", "false")))
    assert read_labelled([str(tmp_path / "a.jsonl")], "text", "label").labels == ["true", "false"]
    with pytest.raises(DataError, match="all rows have the label 'a', and a classifier needs two"):
        find_classes(["a", "a"])


def test_a_label_that_training_has_not_is_named_with_its_row() -> None:
    rows = LabelledTexts(["f line 1", "f line 2"], ["t", "t"], ["x", "z"])
    with pytest.raises(DataError, match=r"f line 2 has the label 'z', which no row of training has"):
        class_indices(rows, ("x", "y"))
    assert class_indices(rows, ("x", "z")).tolist() == [0, 1]


def split(
    labels: list[str], keys: list[bytes] | None = None, seed: int = 0, **fractions: float
) -> np.ndarray:
    """Split rows whose keys are their numbers, by default with a tenth for each held-out split."""
    keys = keys or [b"row %d" % number for number in range(len(labels))]
    valid, test = fractions.get("valid", 0.1), fractions.get("test", 0.1)
    return stratified_split(labels, keys, valid_fraction=valid, test_fraction=test, seed=seed)


@pytest.mark.parametrize(("valid", "test"), [(0.05, 0.05), (0.1, 0.3), (0.0, 0.2), (0.4, 0.0), (0.6, 0.29)])
def test_every_class_has_its_fraction_in_every_split_and_one_row_at_least(valid: float, test: float) -> None:
    sizes = {"common": 2000, "seldom": 21, "rare": 3}
    labels = [name for name, count in sizes.items() for _ in range(count)]
    found = [split(labels, seed=seed, valid=valid, test=test) for seed in range(20)]
    for parts in found:
        for name in sizes:
            of_class = parts[np.array(labels) == name]
            assert (of_class == TRAIN).any()
            for part, fraction in ((VALID, valid), (TEST, test)):
                count = (of_class == part).sum()
                assert (count == 0) == (fraction == 0)
                wanted = fraction * sizes[name]
                assert name == "rare" or abs(count - wanted) <= 1 + 5 * math.sqrt(wanted)
    assert np.array_equal(found[0], split(labels, valid=valid, test=test))
    assert not np.array_equal(found[0], found[1])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**63 - 1), st.integers(1, 50), st.randoms(use_true_random=False))
def test_rows_that_are_added_move_no_other_row_to_another_split(
    seed: int, added: int, rng: random.Random
) -> None:
    def splits(rows: list[int]) -> dict[int, int]:
        labels = ["even" if row % 2 == 0 else "odd" for row in rows]
        found = split(labels, [b"%d" % row for row in rows], seed, test=0.2)
        return dict(zip(rows, found.tolist(), strict=True))

    before = splits(list(range(400)))
    rows = list(range(400 + added))
    rng.shuffle(rows)
    after = splits(rows)
    assert {row: after[row] for row in before} == before
    removed = splits([row for row in rows if row % 7])
    assert all(after[row] == part for row, part in removed.items())


def test_in_a_tiny_class_a_further_row_moves_one_row_a_split_and_trains_no_more_than_before() -> None:
    for seed in range(50):
        before, after = (
            split(["a"] * count + ["b"] * count, None, seed, valid=0.05, test=0.05)[:5] for count in (5, 6)
        )
        moved = np.flatnonzero(before != after)
        assert len(moved) <= 2
        assert not (before[moved] == TRAIN).any()


def test_equal_rows_share_a_split() -> None:
    texts = [b"%d" % (number % 40) for number in range(400)]
    labels = ["x" if number % 40 < 30 else "y" for number in range(400)]
    for seed in range(20):
        found = split(labels, texts, seed)
        assert np.array_equal(found, np.tile(found[:40], 10))
    # If a class has fewer different rows than there are splits, every split still gets one.
    found = split(["x"] * 9 + ["y"] * 3, [b"same"] * 9 + [b"1", b"2", b"3"])
    assert set(found[:9].tolist()) == set(found[9:].tolist()) == {TRAIN, VALID, TEST}


def test_a_class_that_can_not_be_in_all_splits_is_named() -> None:
    for labels, sentence in (
        ("a" * 20 + "bb", "too few rows have the label 'b': 2, and 3 are needed, to train, to v"),
        ("123456789", "9 rows have 9 different labels, and each class needs 3 rows"),
    ):
        with pytest.raises(DataError, match=sentence):
            split(list(labels))


@pytest.mark.parametrize(("count", "size"), [(1, 4), (2, 1), (7, 3), (64, 5), (101, 4)])
def test_each_row_comes_once_an_epoch_with_its_label_whoever_asks_first(count: int, size: int) -> None:
    rng = np.random.default_rng(count)
    # The first id of a row is its number, of which its class is made.
    rows = [np.array([n, *rng.integers(0, 9, rng.integers(0, 12))], np.uint16) for n in range(count)]
    classes = np.arange(count) * 7 % 5
    shuffled, again = (LabelledBatches(rows, classes, size, 3) for _ in range(2))
    orders: list[list[int]] = [[], []]
    for epoch, seen in enumerate(orders):
        for index in range(shuffled.num_batches):
            batch = shuffled.batch(epoch, index)
            mask = batch.attention_mask
            assert batch.loss_mask.all()
            for n, row in enumerate(batch.inputs):
                seen.append(int(row[0]))
                expected = rows[seen[-1]].tolist()
                assert row[: len(expected)].tolist() == expected
                assert (batch.inputs.shape[1] if mask is None else int(mask[n].sum())) == len(expected)
                assert int(batch.targets[n]) == classes[seen[-1]]
        assert sorted(seen) == list(range(count))
    assert count < 7 or orders[0] != orders[1]
    # Another object, asked in another order, gives the same.
    for index in reversed(range(again.num_batches)):
        assert again.batch(1, index).inputs.tolist() == shuffled.batch(1, index).inputs.tolist()
    in_order = LabelledBatches(rows, classes, size, None)
    found = [int(row[0]) for n in range(in_order.num_batches) for row in in_order.batch(5, n).inputs]
    assert found == list(range(count))


def test_rows_of_like_length_share_a_batch() -> None:
    rng = np.random.default_rng(0)
    rows = [np.zeros(length, np.uint16) for length in rng.integers(1, 100, 4 * POOL * 8)]
    classes = np.zeros(len(rows), np.int64)

    def padding(seed: int | None) -> int:
        batches = LabelledBatches(rows, classes, 8, seed)
        read = sum(batches.batch(0, index).inputs.numel() for index in range(batches.num_batches))
        return read - sum(map(len, rows))

    assert padding(0) < 0.3 * padding(None)


def test_texts_are_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    parts = [LabelledTexts(["a", "b"], ["abc", "abcd"], []), LabelledTexts(["c"], ["abcde"], [])]
    first, second = encode_texts(parts, BYTES, 4)
    assert [row.tolist() for row in first] == [[97, 98, 99], [97, 98, 99, 100]]
    assert [row.tolist() for row in second] == [[97, 98, 99, 100]]
    assert "1 of 3 texts are longer than max_seq_length 4" in caplog.text
    with pytest.raises(DataError, match="b: "):
        encode_texts([LabelledTexts(["a", "b"], ["fine", "\ud800"], [])], BYTES, 4)
