"""Token files: the tokens of the plain path, made once, within bounded memory, and never trusted blindly."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import BYTES, bpe, cached, expected, in_cache, story, write_lines

from fftnet.data import chunks, tokenization
from fftnet.data.cache import TokenCache
from fftnet.data.chunks import Chunk, read_chunks
from fftnet.data.sources import resolve
from fftnet.data.token_file import open_tokens
from fftnet.utils.dataset import DataConfig, DataError, load_data, load_whole, training_texts
from fftnet.utils.tokenizer import Tokenizer


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(story(0, 2000), encoding="utf-8")
    return path


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 150)
    monkeypatch.setattr(tokenization, "CHUNK", 150)
    monkeypatch.setattr("fftnet.data.sources.text.READ_BYTES", 7)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_the_tokens_are_those_of_the_plain_path(tmp_path: Path, name: str) -> None:
    tokenizer = BYTES if name == "bytes" else bpe()
    texts = [story(n, 1000 * n + 1) for n in range(5)]
    for n, each in enumerate(texts):
        (tmp_path / f"{n}.txt").write_text(each, encoding="utf-8", newline="")
    pieces = list(read_chunks(resolve([str(tmp_path / "4.txt")]), "text"))
    assert len(pieces) > 20
    assert "".join(piece.text for piece in pieces) == texts[4]
    arrays = cached(tmp_path, tmp_path / "*.txt", tokenizer=tokenizer).arrays
    assert arrays.tokens.dtype == np.uint16
    assert arrays.tokens.tolist() == expected(tokenizer, texts)
    plain = load_whole(DataConfig(data=[str(tmp_path / "*.txt")]), tokenizer)
    assert plain.tokens.tolist() == arrays.tokens.tolist()
    ends = arrays.document_ends.tolist()
    assert ends == (np.flatnonzero(arrays.tokens == tokenizer.eot)[1:] + 1).tolist()
    assert arrays.segment_ends[-1] == len(arrays.tokens)
    assert 50 < len(arrays.segment_ends) <= 100


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, text: Path) -> None:
    class Wide(Tokenizer):
        vocab_size = 2**16 + 1  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    file = cached(tmp_path, text, tokenizer=Wide(BYTES.encoding))
    assert file.arrays.tokens.dtype == np.uint32
    assert file.arrays.tokens.tolist() == expected(BYTES, [text.read_text("utf-8")])


def test_a_second_run_does_not_read_the_sources(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(tmp_path, text)

    def refuse(*arguments: object) -> Iterator[Chunk]:
        raise AssertionError("the sources were read again")

    monkeypatch.setattr("fftnet.data.cache.read_chunks", refuse)
    again = cached(tmp_path, text)
    assert again.arrays.tokens.tolist() == first.arrays.tokens.tolist()
    os.utime(text, (0, 0))
    with pytest.raises(AssertionError, match="read again"):
        cached(tmp_path, text)


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[:-1]
    elif kind == "cut within the header":
        content = content[:60]
    elif kind == "no header":
        content[0] ^= 1
    else:
        content[{"length": 9, "digest": 20, "JSON": 100}[kind]] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"is truncated: it has \d+ bytes of \d+: tokenizing again"),
        ("cut within the header", r"the header of .*\.tokens is damaged: tokenizing again"),
        ("no header", r"is not a token file or its header is damaged: tokenizing again"),
        ("length", r"the header of .*\.tokens is damaged: tokenizing again"),
        ("digest", r"the header of .*\.tokens is damaged: tokenizing again"),
        ("JSON", r"the header of .*\.tokens is damaged: tokenizing again"),
    ],
)
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, text: Path, caplog: pytest.LogCaptureFixture, kind: str, message: str
) -> None:
    caplog.set_level("INFO", "fftnet")
    file = cached(tmp_path, text)
    tokens = file.arrays.tokens.tolist()
    assert "again" not in caplog.text
    damage(file.path, kind)
    assert cached(tmp_path, text).arrays.tokens.tolist() == tokens
    assert re.search(message, caplog.text), caplog.text


def test_another_tokenizer_and_changed_sources_are_noticed(
    tmp_path: Path, text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fftnet")
    one = bpe(290)
    other = bpe(280)
    path = cached(tmp_path, text, tokenizer=one).path
    file = cached(tmp_path, text, tokenizer=other)
    assert file.path == path
    assert file.arrays.tokens.tolist() == expected(other, [text.read_text("utf-8")])
    assert f"{path} was made with another tokenizer than 'bpe': tokenizing again" in caplog.text
    text.write_text("Something else.")
    assert cached(tmp_path, text, tokenizer=other).arrays.tokens.tolist() == expected(
        other, ["Something else."]
    )
    assert f"{path} was made before its sources changed: tokenizing again" in caplog.text
    with pytest.raises(DataError, match="was made with another tokenizer than 'bytes'"):
        open_tokens(path, BYTES)


def test_a_corpus_that_vanished_can_be_used_from_its_cache(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", [story(n, 50) for n in range(200)])
    config = in_cache(tmp_path, text)
    before = load_data(config, BYTES, 32)
    text.unlink()
    with pytest.raises(
        DataError, match=r"matches no file.*put the text back, or use them with --data"
    ) as gone:
        load_data(config, BYTES, 32)
    named = in_cache(tmp_path, Path(str(gone.value).rpartition("--data ")[2]))
    after = load_data(named, BYTES, 32)
    assert after.train.batch(3, 1).inputs.tolist() == before.train.batch(3, 1).inputs.tolist()
    with pytest.raises(DataError, match="holds no text to learn bpe from"):
        list(training_texts(named))
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="matches no file; check its path"):
        load_data(config, BYTES, 32)


def test_a_file_of_an_older_version_is_made_again(
    tmp_path: Path, text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = cached(tmp_path, text)
    content = file.path.read_bytes()
    header = json.dumps({"version": 1, "tokenizer": BYTES.fingerprint, "num_units": 3}).encode()
    start = b"FFTNETtk" + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest()
    file.path.write_bytes((start + header).ljust(4096, b"\0") + content[4096:])
    caplog.set_level("INFO", "fftnet")
    assert cached(tmp_path, text).arrays.tokens.tolist() == file.arrays.tokens.tolist()
    assert "is a token file of version 1, this is version 2: tokenizing again" in caplog.text


def with_header(path: Path, header: bytes, start: int = 0, body: bytes = b"") -> None:
    """Give a token file another header with a right checksum, and other bytes from a place on."""
    content = bytearray(path.read_bytes())
    lead = b"FFTNETtk" + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest()
    content[:4096] = (lead + header).ljust(4096, b"\0")
    if body:
        content[start : start + len(body)] = body
    path.write_bytes(content)


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return json.loads(content[48 : 48 + int.from_bytes(content[8:16], "little")])


COUNTS = ("num_tokens", "num_documents", "num_segments")
NO_COUNTS = (-1, 0, True, 2.0, 1e30, "9", None, [3], {}, 2**48, 2**63, 2**64, 10**3000)
WRONG: list[dict[str, Any]] = [
    *({name: value} for name in COUNTS for value in NO_COUNTS),
    *({"dtype": x} for x in ("O", "<u2", "int64", "float32", "U9", "", None, 16, ["uint16"], {})),
    *({"version": x} for x in (1, 2.0, True, "2", None, [], 10**3000)),
    *({name: x} for name in ("tokenizer", "sources", "text") for x in (1, True, [], {"a": 1})),
    {"sources": None},
    {"more": 1},
    {"__class__": "Header"},
]


def test_no_header_of_a_token_file_ends_in_anything_but_a_sentence(tmp_path: Path, text: Path) -> None:
    path = cached(tmp_path, text).path
    whole = header_of(path)
    lacking = [{name: value for name, value in whole.items() if name != gone} for gone in whole]
    headers = [json.dumps(whole | wrong).encode() for wrong in WRONG]
    headers += [json.dumps(fields).encode() for fields in lacking if "text" in fields]
    headers += [b"", b"3", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 4000, b'{"a":' * 800, b"9" * 4040]
    config = DataConfig(data=[str(path)])
    for header in headers:
        with_header(path, header)
        with pytest.raises(DataError, match=r"\.tokens") as error:
            load_data(config, BYTES, 32)
        assert len(str(error.value)) < 4500
    # A file of an earlier version has no digest of its text, and is read as before.
    with_header(path, json.dumps({name: value for name, value in whole.items() if name != "text"}).encode())
    assert load_data(config, BYTES, 32).digest is None
    with_header(path, json.dumps(whole).encode())
    assert load_data(config, BYTES, 32).digest == whole["text"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("ids", 257, "it holds the id 257, and 'bytes' has ids below 257; make it again"),
        ("ids", 65535, "it holds the id 65535"),
        ("document_ends", 0, "the ends of its documents or segments are not in order"),
        ("document_ends", 2**64 - 1, "the ends of its documents or segments are not in order"),
        ("segment_ends", 2**63, "the ends of its documents or segments are not in order"),
    ],
)
def test_damaged_arrays_of_a_token_file_are_a_sentence(
    place: str, value: int, message: str, tmp_path: Path
) -> None:
    file = cached(tmp_path, write_lines(tmp_path / "a.jsonl", [story(n, 40) for n in range(200)]))
    ends_at = file.header.ends_at
    start, size = {
        "ids": (4096 + 2 * 1000, 2),
        "document_ends": (ends_at + 8 * 100, 8),
        "segment_ends": (ends_at + 8 * (file.header.num_documents + 20), 8),
    }[place]
    whole = header_of(file.path)
    with_header(file.path, json.dumps(whole).encode(), start, value.to_bytes(size, "little"))
    with pytest.raises(DataError, match=message):
        load_data(DataConfig(data=[str(file.path)]), BYTES, 32)


def test_the_arrays_lie_plain_in_the_file(tmp_path: Path) -> None:
    texts = [story(n, 40) for n in range(200)]
    file = cached(tmp_path, write_lines(tmp_path / "a.jsonl", texts))
    tokens = expected(BYTES, texts)
    content = file.path.read_bytes()[4096:]
    assert np.frombuffer(content, np.uint16, len(tokens)).tolist() == tokens
    numbers = np.frombuffer(content[-(-2 * len(tokens) // 8) * 8 :], np.uint64)
    ends = (np.flatnonzero(np.array(tokens) == BYTES.eot)[1:] + 1).tolist()
    assert numbers[: len(texts)].tolist() == ends
    assert numbers[len(texts) :].tolist() == file.arrays.segment_ends.tolist()
    assert set(file.arrays.segment_ends.tolist()) <= set(ends)


def test_a_full_disk_ends_in_a_sentence(tmp_path: Path, text: Path) -> None:
    text.write_text("word " * 100_000)
    (tmp_path / "cache").mkdir()
    code = (
        "import resource, sys\n"
        "from fftnet.utils.dataset import DataConfig, DataError, load_data\n"
        "from fftnet.utils.tokenizer import load_tokenizer\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))\n"
        "config = DataConfig(data=sys.argv[1:2], in_memory_mb=0, cache_dir=sys.argv[2])\n"
        "try: load_data(config, load_tokenizer('bytes'), 256)\n"
        "except DataError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(text), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sentence = "could not be written (File too large): free some space or choose another --cache_dir"
    assert sentence in done.stdout
    assert "Traceback" not in done.stderr
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert TokenCache([str(text)], "text", BYTES).path.parent == tmp_path / "xdg" / "fftnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TokenCache([str(text)], "text", BYTES).path.parent == tmp_path / ".cache" / "fftnet"


def test_memory_stays_bounded(tmp_path: Path) -> None:
    line = json.dumps({"text": story(1, 200)}) + "\n"
    with (tmp_path / "a.jsonl").open("w") as file:
        for _ in range(25_000_000 // len(line)):
            file.write(line)
    with (tmp_path / "b.txt").open("w", encoding="utf-8") as file:
        for _ in range(25):
            file.write(story(2, 1000) * (1_000_000 // len(story(2, 1000))))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from fftnet.utils.dataset import DataConfig, load_data\n"
        "from fftnet.utils.tokenizer import load_tokenizer\n"
        "data, cache = sys.argv[1].split(','), sys.argv[2]\n"
        "tokenizer = load_tokenizer('bytes')\n"
        "def run(data):\n"
        "    splits = load_data(DataConfig(data=data, in_memory_mb=0, cache_dir=cache), tokenizer, 256)\n"
        "    for index in range(20): splits.train.batch(0, index)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = run(data[:1])\n"
        "print(run(data[1:]) - before)\n"
    )
    write_lines(tmp_path / "small.jsonl", [story(n, 300) for n in range(1000)])
    data = ",".join(str(tmp_path / name) for name in ("small.jsonl", "a.jsonl", "b.txt"))
    done = subprocess.run(
        [sys.executable, "-c", code, data, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 30_000_000
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tokens")) > 90_000_000
