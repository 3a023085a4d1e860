"""Token files: the tokens of the plain path, made once, within bounded memory, and never trusted blindly."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from corpora import BYTES, bpe, cached, expected, in_cache, story, write_lines
from fftnet.data.documents import Section, find, sections
from hypothesis import given, settings
from hypothesis import strategies as st

from fftnet.data import documents
from fftnet.data.cache import TokenCache
from fftnet.data.token_file import open_tokens
from fftnet.utils.dataset import (
    DataConfig,
    DataError,
    load_data,
    load_passages,
    load_whole,
    training_texts,
)
from fftnet.utils.tokenizer import Tokenizer


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(story(0, 2000), encoding="utf-8")
    return path


@pytest.fixture
def short_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SECTION", 150)
    monkeypatch.setattr(documents, "READ_BYTES", 7)


@pytest.mark.usefixtures("short_sections")
@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_the_tokens_are_those_of_the_plain_path(tmp_path: Path, name: str) -> None:
    tokenizer = BYTES if name == "bytes" else bpe()
    texts = [story(n, 1000 * n + 1) for n in range(5)]
    for n, each in enumerate(texts):
        (tmp_path / f"{n}.txt").write_text(each, encoding="utf-8", newline="")
    pieces = list(sections(find([str(tmp_path / "4.txt")])[0], "text"))
    assert len(pieces) > 20
    assert "".join(piece.text for piece in pieces) == texts[4]
    file = cached(tmp_path, tmp_path / "*.txt", tokenizer=tokenizer)
    assert file.tokens.dtype == np.uint16
    assert file.tokens.tolist() == expected(tokenizer, texts)
    plain = load_whole(DataConfig(data=[str(tmp_path / "*.txt")]), tokenizer)
    assert plain.tokens.tolist() == file.tokens.tolist()
    ends = file.units[file.units & 1 == 1] >> 1
    assert ends.tolist() == (np.flatnonzero(file.tokens == tokenizer.eot)[1:] + 1).tolist()


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, text: Path) -> None:
    class Wide(Tokenizer):
        vocab_size = 2**16 + 1  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    file = cached(tmp_path, text, tokenizer=Wide(BYTES.encoding))
    assert file.tokens.dtype == np.uint32
    assert file.tokens.tolist() == expected(BYTES, [text.read_text("utf-8")])


def test_a_second_run_does_not_read_the_sources(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(tmp_path, text)

    def refuse(*arguments: object) -> Iterator[Section]:
        raise AssertionError("the sources were read again")

    monkeypatch.setattr("fftnet.data.cache.sections", refuse)
    again = cached(tmp_path, text)
    assert again.tokens.tolist() == first.tokens.tolist()
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
    tokens = file.tokens.tolist()
    assert "again" not in caplog.text
    damage(file.path, kind)
    assert cached(tmp_path, text).tokens.tolist() == tokens
    assert re.search(message, caplog.text), caplog.text


def test_another_tokenizer_and_changed_sources_are_noticed(
    tmp_path: Path, text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fftnet")
    one, other = bpe(290), bpe(280)
    path = cached(tmp_path, text, tokenizer=one).path
    file = cached(tmp_path, text, tokenizer=other)
    assert file.path == path
    assert file.tokens.tolist() == expected(other, [text.read_text("utf-8")])
    assert f"{path} was made with another tokenizer than 'bpe': tokenizing again" in caplog.text
    text.write_text("Something else.")
    assert cached(tmp_path, text, tokenizer=other).tokens.tolist() == expected(other, ["Something else."])
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
    assert after.train.batch(3, 1).tolist() == before.train.batch(3, 1).tolist()
    with pytest.raises(DataError, match="holds no text to learn bpe from"):
        list(training_texts(named))
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="matches no file; name a text file"):
        load_data(config, BYTES, 32)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    seed=st.integers(0, 5),
    length=st.integers(1, 9),
)
def test_splits_of_a_token_file_lose_nothing_and_share_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int, length: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    texts = [f"{chr(65 + n)}" * (size + 1) for n, size in enumerate(sizes)]
    write_lines(folder / "a.jsonl", texts)
    config = in_cache(folder, folder / "a.jsonl", data_seed=seed, valid_fraction=0.3, test_fraction=0.3)
    seen: list[str] = []
    for passages in load_passages(config, BYTES):
        tokens = passages.run()
        ids = tokens[0 : len(tokens)].tolist()
        found = BYTES.decode([32 if t == BYTES.eot else t for t in ids]).split()
        assert ids == expected(BYTES, found)
        assert [tokens[n : n + length].tolist() for n in range(0, len(ids), length)] == [
            ids[n : n + length] for n in range(0, len(ids), length)
        ]
        starts, ends = passages.documents()
        whole = [passages.tokens[a:b].tolist() for a, b in zip(starts, ends, strict=True)]
        assert whole == [expected(BYTES, [each]) for each in found]
        seen += found
    assert sorted(seen) == sorted(texts)


def test_another_seed_deals_other_splits_of_the_same_file(tmp_path: Path) -> None:
    texts = [f"document {n} " * 3 for n in range(2000)]
    write_lines(tmp_path / "a.jsonl", texts)
    shares = []
    for seed in (0, 1):
        config = in_cache(tmp_path, tmp_path / "a.jsonl", data_seed=seed)
        shares.append([passages.mine for passages in load_passages(config, BYTES)])
        learned = list(training_texts(config))
        assert learned == [text for text, mine in zip(texts, shares[-1][0], strict=True) if mine]
    assert [0.04 < share.mean() < 0.06 for share in shares[0]] == [False, True, True]
    assert (shares[0][2] & shares[1][2]).mean() < 0.01
    assert len(list((tmp_path / "cache").glob("*.tokens"))) == 1


@pytest.mark.usefixtures("short_sections")
def test_a_single_long_document_is_cut_for_its_splits(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fftnet.data.cache.SECTION", 150)
    config = in_cache(tmp_path, text)
    splits = load_passages(config, BYTES)
    assert all(passages.mine.any() for passages in splits)
    assert sum(passages.mine.sum() for passages in splits) == len(splits[0].units) > 30
    assert (splits[0].units & 1).tolist() == [0] * (len(splits[0].units) - 1) + [1]
    assert load_whole(config, BYTES).documents()[0].tolist() == [0]
    assert list(training_texts(config)) != []
    lengths = [len(passages.run()) - 1 for passages in splits]
    assert sum(lengths) == len(splits[0].tokens) - 1


def test_a_full_disk_ends_in_a_sentence(tmp_path: Path, text: Path) -> None:
    text.write_text("word " * 100_000)
    (tmp_path / "cache").mkdir()
    code = (
        "import resource, sys; from fftnet.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))\n"
        f"sys.exit(main(['train', '--data', {str(text)!r}, '--in_memory_mb', '0', '--no_save_model',"
        f" '--cache_dir', {str(tmp_path / 'cache')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert (
        "could not be written (File too large): free some space or choose another --cache_dir" in done.stderr
    )
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
