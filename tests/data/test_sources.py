"""What a corpus is read from: text, JSON lines, Parquet, Hugging Face datasets; bad ones are named."""

import json
import sys
from pathlib import Path

import pytest
from corpora import BYTES, cached, expected, in_cache, story, write_lines
from fftnet.data.documents import load_texts

from fftnet.utils.dataset import DataError, load_whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", b"x" * 2**21 + b"\xe9 ", r"latin\.txt is not UTF-8 text \(byte 2097152\)"),
        ("half.txt", b"caf\xc3", r"half\.txt is not UTF-8 text \(byte 3\)"),
        ("none.txt", b"", r"none\.txt is empty: leave it out"),
        ("none.jsonl", b"\n\n", r"none\.jsonl is empty: leave it out"),
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"txt": "b", "id": 1}\n',
            r"line 3 has no text in field 'text' \(its fi",
        ),
        ("b.jsonl", b'{"text": "a"}\n{"text": null}\n', r"b\.jsonl line 2 has no text in field"),
        ("c.jsonl", b'{"text": "a"}\n[1]\n', r"c\.jsonl line 2 has no text in field"),
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', r"d\.jsonl line 2 is not JSON"),
        ("e.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"e\.jsonl line 2 is not UTF-8 text"),
        ("f.jsonl", b'{"text": "a\\ud800"}\n', r"f\.jsonl line 1: character 1 is a lone surrogate"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_left(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        cached(tmp_path, tmp_path / name)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_json_lines_are_documents(tmp_path: Path) -> None:
    texts = [story(n, 30) for n in range(10)]
    lines = [json.dumps({"id": n, "body": text}) for n, text in enumerate([*texts, " "])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = [str(tmp_path / "a.jsonl")]
    assert [document.text for document in load_texts(source, "body")] == texts
    config = in_cache(tmp_path, tmp_path / "a.jsonl", text_field="body")
    assert load_whole(config, BYTES).tokens.tolist() == expected(BYTES, texts)


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    texts = [story(n, 30) for n in range(600)]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": list(range(600))}), path)
    assert cached(tmp_path, path).tokens.tolist() == expected(BYTES, texts)
    with pytest.raises(DataError, match=r"a\.parquet has no text in field 'body' \(its fields: text, id\)"):
        load_texts([str(path)], "body")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet is not a whole Parquet file"):
        cached(tmp_path, path)


def test_hugging_face_datasets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = [story(n, 30).replace("\r", "") for n in range(20)]
    path = tmp_path / "a.jsonl"
    write_lines(path, texts)
    assert [document.text for document in load_texts([f"hf:{path}"])] == texts
    import datasets

    datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "saved")
    assert cached(tmp_path, f"hf:{tmp_path}/saved").tokens.tolist() == expected(BYTES, texts)
    with pytest.raises(DataError, match=r"hf:no/such@1,c could not be loaded .*hf:NAME\[@REVISION\]"):
        load_texts(["hf:no/such@1,c"])


@pytest.mark.parametrize(("source", "package"), [("a.parquet", "pyarrow"), ("hf:a/b", "datasets")])
def test_a_missing_extra_is_named(
    tmp_path: Path, source: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    with pytest.raises(DataError, match=rf"which needs {package}: pip install 'fftnet\[corpora\]'"):
        load_texts([source])
