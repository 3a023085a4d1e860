"""Token files: the same tokens as in memory, made once, in bounded memory, checked before use."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import BYTES, bpe, cached, expected, in_cache, load_whole, story, write_lines

from fftnet.data import splits, tokens
from fftnet.data.cache import cache_path, open_tokens
from fftnet.data.sources import resolve
from fftnet.data.splits import Chunk, read_chunks
from fftnet.data.tokens import TokenArrays
from fftnet.utils.dataset import DataConfig, DataError, load_data, training_texts
from fftnet.utils.tokenizer import Tokenizer


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(story(0, 2000), encoding="utf-8")
    return path


def made(tmp_path: Path, *sources: Path, tokenizer: Tokenizer = BYTES) -> Path:
    """Make the token file of some sources."""
    cached(tmp_path, *sources, tokenizer=tokenizer)
    return cache_path(in_cache(tmp_path, *sources), tokenizer)


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_the_tokens_are_those_of_a_text_in_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (splits, tokens):
        monkeypatch.setattr(module, "CHUNK", 150)
    monkeypatch.setattr("fftnet.data.sources.text.READ_BYTES", 7)
    tokenizer = BYTES if name == "bytes" else bpe()
    texts = [story(n, 1000 * n + 1) for n in range(5)]
    for n, each in enumerate(texts):
        (tmp_path / f"{n}.txt").write_text(each, encoding="utf-8", newline="")
    pieces = list(read_chunks(resolve([str(tmp_path / "4.txt")]), "text"))
    assert len(pieces) > 20
    assert "".join(piece.text for piece in pieces) == texts[4]
    arrays = cached(tmp_path, tmp_path / "*.txt", tokenizer=tokenizer)
    assert arrays.tokens.dtype == np.uint16
    assert arrays.tokens.tolist() == expected(tokenizer, texts)
    plain = load_whole(DataConfig(data=[str(tmp_path / "*.txt")]), tokenizer)
    assert plain.tokens.tolist() == arrays.tokens.tolist()
    assert arrays.segment_ends[-1] == len(arrays.tokens)
    assert 50 < len(arrays.segment_ends) <= 100


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, text: Path) -> None:
    class Wide(Tokenizer):
        vocab_size = 2**16 + 1  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    arrays = cached(tmp_path, text, tokenizer=Wide(BYTES.encoding))
    assert arrays.tokens.dtype == np.uint32
    assert arrays.tokens.tolist() == expected(BYTES, [text.read_text("utf-8")])


def test_a_second_run_does_not_read_the_sources(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(tmp_path, text)

    def refuse(*arguments: object) -> Iterator[Chunk]:
        raise AssertionError("the sources were read again")

    monkeypatch.setattr("fftnet.data.cache.read_chunks", refuse)
    assert cached(tmp_path, text).tokens.tolist() == first.tokens.tolist()
    os.utime(text, (0, 0))
    with pytest.raises(AssertionError, match="read again"):
        cached(tmp_path, text)


def test_a_source_that_changes_while_it_is_read_leaves_no_file(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(*arguments: Any) -> Iterator[Chunk]:
        yield from read_chunks(*arguments)
        os.utime(text, (0, 0))

    monkeypatch.setattr("fftnet.data.cache.read_chunks", changing)
    with pytest.raises(DataError, match=r"text\.txt changed while it was read: run again"):
        cached(tmp_path, text)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def flip(place: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def old_version(content: bytes) -> bytes:
    header = json.dumps({"version": 1, "tokenizer": BYTES.fingerprint, "num_units": 3}).encode()
    return header_bytes(header) + content[4096:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"is truncated: it has \d+ bytes of \d+"),
        (lambda content: content[:60], r"the header of .*\.tokens is damaged"),
        (flip(0), r"is not a token file or its header is damaged"),
        *((flip(place), r"the header of .*\.tokens is damaged") for place in (9, 20, 100)),
        (old_version, r"is a token file of version 1, this is version 2"),
    ],
)
def test_a_damaged_or_old_cache_is_made_again(
    tmp_path: Path,
    text: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    caplog.set_level("INFO", "fftnet")
    found = cached(tmp_path, text).tokens.tolist()
    assert "again" not in caplog.text
    path = made(tmp_path, text)
    path.write_bytes(damage(path.read_bytes()))
    assert cached(tmp_path, text).tokens.tolist() == found
    assert re.search(message + ": tokenizing again", caplog.text), caplog.text


def test_another_tokenizer_and_changed_sources_are_noticed(
    tmp_path: Path, text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fftnet")
    other = bpe(280)
    path = made(tmp_path, text, tokenizer=bpe(290))
    found = cached(tmp_path, text, tokenizer=other)
    assert made(tmp_path, text, tokenizer=other) == path
    assert found.tokens.tolist() == expected(other, [text.read_text("utf-8")])
    assert f"{path} was made with another tokenizer than 'bpe': tokenizing again" in caplog.text
    text.write_text("Something else.")
    found = cached(tmp_path, text, tokenizer=other)
    assert found.tokens.tolist() == expected(other, ["Something else."])
    assert f"{path} was made before its sources changed: tokenizing again" in caplog.text
    with pytest.raises(DataError, match="was made with another tokenizer than 'bytes'"):
        open_tokens(path, BYTES)


def test_a_corpus_that_vanished_can_be_used_from_its_cache(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", [story(n, 50) for n in range(200)])
    config = in_cache(tmp_path, text)
    before = load_data(config, BYTES, 32)
    text.unlink()
    with pytest.raises(DataError, match=r"matches no file.*put the text back, or use them with") as gone:
        load_data(config, BYTES, 32)
    named = in_cache(tmp_path, str(gone.value).rpartition("--data ")[2])
    after = load_data(named, BYTES, 32)
    assert after.train.batch(3, 1).inputs.tolist() == before.train.batch(3, 1).inputs.tolist()
    with pytest.raises(DataError, match="holds no text to learn bpe from"):
        list(training_texts(named))
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="matches no file; check its path"):
        load_data(config, BYTES, 32)


def header_bytes(header: bytes) -> bytes:
    """The first 4096 bytes of a token file, with a right checksum."""
    lead = b"FFTNETtk" + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest()
    return (lead + header).ljust(4096, b"\0")


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
    path = made(tmp_path, text)
    body = path.read_bytes()[4096:]
    whole = header_of(path)
    lacking = [{name: value for name, value in whole.items() if name != gone} for gone in whole]
    headers = [json.dumps(whole | wrong).encode() for wrong in WRONG]
    headers += [json.dumps(fields).encode() for fields in lacking if "text" in fields]
    headers += [b"", b"3", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 4000, b'{"a":' * 800, b"9" * 4040]
    config = DataConfig(data=[str(path)])
    for header in headers:
        path.write_bytes(header_bytes(header) + body)
        with pytest.raises(DataError, match=r"\.tokens") as error:
            load_data(config, BYTES, 32)
        assert len(str(error.value)) < 4500
    # A file of an earlier version without a digest of its text is still read.
    old = {name: value for name, value in whole.items() if name != "text"}
    for header, digest in ((old, None), (whole, whole["text"])):
        path.write_bytes(header_bytes(json.dumps(header).encode()) + body)
        assert load_data(config, BYTES, 32).digest == digest


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
    path = made(tmp_path, write_lines(tmp_path / "a.jsonl", [story(n, 40) for n in range(200)]))
    header = header_of(path)
    ends_at = -(-(4096 + 2 * header["num_tokens"]) // 8) * 8
    start, size = {
        "ids": (4096 + 2 * 1000, 2),
        "document_ends": (ends_at + 8 * 100, 8),
        "segment_ends": (ends_at + 8 * (header["num_documents"] + 20), 8),
    }[place]
    content = bytearray(path.read_bytes())
    content[start : start + size] = value.to_bytes(size, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(DataConfig(data=[str(path)]), BYTES, 32)


def test_the_layout_of_a_token_file_is_the_documented_one(tmp_path: Path) -> None:
    texts = [story(n, 40) for n in range(200)]
    source = write_lines(tmp_path / "a.jsonl", texts)
    arrays: TokenArrays = cached(tmp_path, source)
    ids = expected(BYTES, texts)
    content = made(tmp_path, source).read_bytes()[4096:]
    assert np.frombuffer(content, np.uint16, len(ids)).tolist() == ids
    numbers = np.frombuffer(content[-(-2 * len(ids) // 8) * 8 :], np.uint64)
    ends = (np.flatnonzero(np.array(ids) == BYTES.eot)[1:] + 1).tolist()
    assert numbers[: len(texts)].tolist() == ends
    assert numbers[len(texts) :].tolist() == arrays.segment_ends.tolist()
    assert set(arrays.segment_ends.tolist()) <= set(ends)


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    sentence = "could not be written (File too large): free some space or choose another --cache_dir"
    assert sentence in run_python(code, str(text), str(tmp_path / "cache"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(data=[str(text)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_path(config, BYTES).parent == tmp_path / "xdg" / "fftnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path(config, BYTES).parent == tmp_path / ".cache" / "fftnet"


def test_memory_stays_bounded(tmp_path: Path) -> None:
    line = json.dumps({"text": story(1, 200)}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * (25_000_000 // len(line)))
    long = story(2, 1000)
    (tmp_path / "b.txt").write_text(long * (25_000_000 // len(long)), encoding="utf-8")
    write_lines(tmp_path / "small.jsonl", [story(n, 300) for n in range(1000)])
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
    data = ",".join(str(tmp_path / name) for name in ("small.jsonl", "a.jsonl", "b.txt"))
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run_python(code, data, str(tmp_path / "cache"))) * unit < 30_000_000
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tokens")) > 90_000_000
