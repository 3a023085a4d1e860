"""Sources of a corpus: text, JSON lines, Parquet, Hugging Face datasets; bad ones are named."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpora import BYTES, cached, expected, in_cache, load_views, load_whole, story, texts_of, write_lines

from fftnet.cli.flags import parse
from fftnet.data.labelled import read_labelled
from fftnet.data.sources import SOURCES
from fftnet.data.sources.base import Advance, Document, Source, SourceFile
from fftnet.data.sources.parquet import Parquet
from fftnet.data.sources.tables import read_lines
from fftnet.utils.dataset import DataConfig, DataError, training_texts

LINE = b'{"text": "a"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", b"x" * 2**21 + b"\xe9 ", r"latin\.txt is not UTF-8 text \(byte 2097152\): convert"),
        ("half.txt", b"caf\xc3", r"half\.txt is not UTF-8 text \(byte 3\)"),
        ("wide.txt", "wide".encode("utf-16"), r"wide\.txt is not UTF-8 text \(byte 0\)"),
        ("none.txt", b"", r"none\.txt is empty: leave it out"),
        ("blank.txt", b" \n", r"blank\.txt is empty: leave it out"),
        ("mark.md", b"\xef\xbb\xbf", r"mark\.md is empty: leave it out"),
        ("none.jsonl", b"\n\n", r"none\.jsonl is empty: leave it out"),
        ("a.jsonl", LINE + b'\n{"txt": "b", "id": 1}\n', r"line 3 has no text in field 'text' \(its fi"),
        ("b.jsonl", LINE + b'{"text": null}\n', r"b\.jsonl line 2 has no text in field"),
        ("c.jsonl", LINE + b"[1]\n", r"c\.jsonl line 2 has no text in field"),
        ("d.jsonl", LINE + b'{"text": \n', r"d\.jsonl line 2 is not JSON"),
        ("e.jsonl", LINE + b'{"text": "\xe9"}\n', r"e\.jsonl line 2 is not UTF-8 text"),
        ("f.jsonl", b'{"text": "a\\ud800"}\n', r"f\.jsonl line 1: character 1 is a lone surrogate"),
        ("g.jsonl", '{"text": "a"}\n'.encode("utf-16"), r"g\.jsonl line 1 is not UTF-8 text"),
        ("h.jsonl", b"[" * 100_000, r"h\.jsonl line 1 is not JSON \(.*recursion"),
        ("i.jsonl", LINE + b'{"text": "a", "text": "b"}\n', r"i\.jsonl line 2 has the column 'text' twice"),
    ],
)
def test_a_damaged_source_is_named_and_no_file_is_left(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        cached(tmp_path, tmp_path / name)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .* holds no text file"):
        texts_of(tmp_path)
    with pytest.raises(DataError, match=r"folder/nowhere matches no file; check its path"):
        texts_of(tmp_path / "folder" / "nowhere")


def test_json_lines_are_documents(tmp_path: Path) -> None:
    texts = [story(n, 30) for n in range(10)]
    lines = [json.dumps({"id": n, "body": text}) for n, text in enumerate([*texts, " "])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert texts_of(tmp_path / "a.jsonl", text_field="body") == texts
    config = in_cache(tmp_path, tmp_path / "a.jsonl", text_field="body")
    assert load_whole(config, BYTES).tokens.tolist() == expected(BYTES, texts)


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    texts = [story(n, 30) for n in range(600)]
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": texts, "id": list(range(600))})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    assert cached(tmp_path, path).tokens.tolist() == expected(BYTES, texts)
    with pytest.raises(DataError, match=r"t row 1 has no text in field 'body' \(its fields: text, id\)"):
        texts_of(path, text_field="body")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet is not a whole Parquet file"):
        cached(tmp_path, path)


def test_hugging_face_datasets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = [story(n, 30).replace("\r", "") for n in range(20)]
    path = write_lines(tmp_path / "a.jsonl", texts)
    assert texts_of(f"hf:{path}") == texts
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "saved")
    assert cached(tmp_path, f"hf:{tmp_path}/saved").tokens.tolist() == expected(BYTES, texts)
    with pytest.raises(DataError, match=r"hf:no/such@1,c could not be loaded .*hf:NAME\[@REVISION\]"):
        texts_of("hf:no/such@1,c")


@pytest.mark.parametrize(("source", "package"), [("a.parquet", "pyarrow"), ("hf:a/b", "datasets")])
def test_a_missing_extra_is_named(
    tmp_path: Path, source: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    with pytest.raises(DataError, match=rf"which needs {package}: pip install '\.\[corpora\]'"):
        texts_of(source)


@pytest.mark.parametrize("source", ["python-docs", "python-source"])
def test_built_in_corpora(source: str) -> None:
    documents = texts_of(source)
    assert len(documents) > 50
    assert 300_000 < sum(map(len, documents)) < 15_000_000
    assert any("expression" in document for document in documents)


def test_files_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("deep/c.md", "three")):
        (tmp_path / name).write_text(text)
    (tmp_path / "picture.png").write_bytes(b"\xff\xfe")
    assert texts_of(tmp_path) == ["one", "two", "three"]
    assert texts_of(tmp_path / "**" / "*.md") == ["three"]
    # A file is read once, however it is spelled.
    (tmp_path / "link.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path)
    assert texts_of("a.txt", "./a.txt", tmp_path / "a.txt", "link.txt", "*.txt") == ["one", "two"]


class Counting(Source):
    """A kind that is found by its prefix, and is no file."""

    label = "count:N"

    def resolve(self, word: str) -> list[SourceFile]:
        return [SourceFile(word, None, self)]

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        for number in range(int(file.name.removeprefix("count:"))):
            yield Document(f"{file.name} {number}", ["number ", f"{number}"])


def test_a_new_kind_of_corpus_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "count:", Counting())
    counted = [f"number {n}" for n in range(300)]
    assert texts_of("count:300") == counted
    # A source of unknown size goes through the cache.
    config = DataConfig(data=["count:300"], cache_dir=str(tmp_path / "cache"))
    assert load_whole(config, BYTES).tokens.tolist() == expected(BYTES, counted)
    assert len(list((tmp_path / "cache").glob("count-300-*.tokens"))) == 1
    assert 250 < len(list(training_texts(config))) < 290
    assert all(len(view.documents()[0]) > 4 for view in load_views(config, BYTES))
    with pytest.raises(DataError, match=r"matches no file; name a folder, a glob, or one of synt.*count:N"):
        texts_of("nowhere")


def test_help_and_errors_list_what_the_table_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("train", ["--help"], [DataConfig])
    shown = " ".join(capsys.readouterr().out.split())
    with pytest.raises(DataError) as error:
        texts_of("nowhere")
    for source in SOURCES.values():
        assert source.label in shown
        assert source.label in str(error.value)


@pytest.mark.parametrize("source", [source for source in SOURCES if SOURCES[source].alone])
def test_what_stands_alone_holds_no_text_and_is_not_mixed(tmp_path: Path, source: str) -> None:
    word = source if not source.startswith(".") else str(tmp_path / f"a{source}")
    (tmp_path / "a.tokens").touch()
    with pytest.raises(ValueError, match=f"{word} can't be mixed with other sources: name one or the other"):
        DataConfig(data=["a.txt", word])
    with pytest.raises(DataError, match=r"name a real text|holds no text to learn bpe from"):
        texts_of(word)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\xef\xbb\xbftwo")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "three"}\n{"text": "four"}\n')
    assert texts_of(tmp_path / "a.txt", tmp_path / "b.jsonl") == ["one\ufefftwo", "three", "four"]


def test_hidden_files_are_read_only_where_they_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "._a.txt", ".git/b.txt", "c/.ipynb_checkpoints/d.txt", "c/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts_of(tmp_path) == texts_of(tmp_path / "**" / "*.txt") == ["a.txt", "c/d.txt"]
    assert texts_of(tmp_path / "._a.txt", tmp_path / ".git") == ["._a.txt", ".git/b.txt"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("here/z.txt", "elsewhere/b.txt", "elsewhere/deep/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "here/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/again").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "here/loop").symlink_to(tmp_path / "here")
    (tmp_path / "here/broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path)
    names = ["elsewhere/b.txt", "elsewhere/deep/c.txt", "here/z.txt"]
    assert texts_of(tmp_path / "here") == names
    (tmp_path / "elsewhere/up").unlink()
    assert sorted(texts_of(tmp_path / "here" / "**" / "*.txt")) == names


def test_a_table_that_is_read_as_plain_text_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.csv", "a.tsv"):
        caplog.clear()
        (tmp_path / name).write_text("text,label\n" + "a word,x\n" * 50)
        load_whole(DataConfig(data=[str(tmp_path / name)]), BYTES)
        (told,) = [record.getMessage() for record in caplog.records]
        assert f"{name} is read as plain text, header and delimiters included; to read one column" in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "' + "x" * 99, "line 2 is longer than 100 ch"),
        ("a.csv", "text,label\na,x\n" + "x" * 200, r"line 3 is longer than 100 characters"),
        ("a.csv", 'text,label\n"' + "x\n" * 60, r"a.csv line \d+ is no table: field larger than field limit"),
    ],
)
def test_an_endless_line_or_field_is_named_and_not_read_whole(
    name: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fftnet.data.sources.tables.LONGEST_LINE", 100)
    (tmp_path / name).write_text(content)
    # The limit of csv is one for the whole process.
    limit = csv.field_size_limit()
    try:
        with pytest.raises(DataError, match=message):
            read_labelled([str(tmp_path / name)], "text", "label")
    finally:
        csv.field_size_limit(limit)


def test_no_more_than_the_limit_is_read_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fftnet.data.sources.tables.LONGEST_LINE", 2**20)

    class Endless(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.taken += len(buffer)
            buffer[:] = bytes(len(buffer))
            return len(buffer)

    stream = Endless()
    with pytest.raises(DataError, match=r"zero line 1 is longer than 1,048,576 characters"):
        next(read_lines(io.BufferedReader(stream), "zero"))
    assert stream.taken < 2**20 + 2**17


def test_parquet_that_unpacks_to_more_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    large = "x" * 2**16
    columns = {"text": [large] * 1000, "label": ["x", "y"] * 500}
    parquet.write_table(pyarrow.table(columns), path, compression="zstd")
    assert path.stat().st_size < 10_000
    sizes: list[int] = []
    read = parquet.ParquetFile.iter_batches

    def counted(self: Any, batch_size: int, columns: list[str]) -> Iterator[Any]:
        sizes.append(batch_size)
        return read(self, batch_size=batch_size, columns=columns)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr("fftnet.data.sources.parquet.UNPACKED", 2**19)
    rows = Parquet().rows(SourceFile(str(path), path, Parquet()), ["text"], lambda count: None)
    assert [next(rows).values["text"] == large for _ in range(10)] == [True] * 10
    assert sizes == [7]
    monkeypatch.setattr("fftnet.data.sources.parquet.LARGEST_GROUP", 2**16)
    with pytest.raises(DataError, match=r"a\.parquet has a row group that unpacks to 65,"):
        texts_of(path)
    # Columns that are not read do not count.
    rows = Parquet().rows(SourceFile(str(path), path, Parquet()), ["label"], lambda count: None)
    assert next(rows).values == {"label": "x"}
