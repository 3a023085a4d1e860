"""Saved tokenizers: the same when loaded, nothing damaged is taken, and a missing package is named."""

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import tiktoken

from fftnet.utils.tokenizer import Tokenizer, TokenizerError, load_tokenizer

DOCS = list(topics.values())
BYTES = load_tokenizer("bytes")
BPE = load_tokenizer("bpe", corpus=DOCS, vocab_size=600)
SINGLE = {bytes([byte]): byte for byte in range(256)}
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    BPE.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "package"),
    [("bpe", "tokenizers"), ("bpe", "tiktoken"), ("gpt2", "tiktoken"), ("some.tiktoken", "tiktoken")],
)
def test_a_missing_package_is_named(
    saved: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (saved / "tokenizer.tiktoken").rename(saved / "some.tiktoken")
    monkeypatch.chdir(saved)
    monkeypatch.setitem(sys.modules, package, None)
    stem = name.removesuffix(".tiktoken")
    with pytest.raises(
        TokenizerError,
        match=rf"^the tokenizer '{stem}' needs {package}: pip install '\.\[text\]' in a clone",
    ):
        load_tokenizer(name, corpus=["a text"], vocab_size=300)


def test_a_saved_tokenizer_names_a_missing_package_and_bytes_need_none(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BYTES.save(saved / "bytes")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TokenizerError, match=r"^the tokenizer 'bpe' needs tiktoken: pip install"):
        Tokenizer.load(saved)
    loaded = Tokenizer.load(saved / "bytes")
    assert loaded.fingerprint == load_tokenizer("bytes").fingerprint
    assert loaded.encode("é") == list("é".encode())


@BOTH
def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path))
    loaded = Tokenizer.load(str(tmp_path))
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.name == tokenizer.name
    assert loaded.encode(DOCS[1]) == tokenizer.encode(DOCS[1])
    assert loaded.eot == tokenizer.eot


def test_a_saved_rank_file_is_a_tokenizer_by_itself(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    loaded = load_tokenizer(str(tmp_path / "tokenizer.tiktoken"))
    assert loaded.encode(DOCS[2]) == BPE.encode(DOCS[2])
    assert loaded.fingerprint == BPE.fingerprint != BYTES.fingerprint


def test_other_special_tokens_survive(tmp_path: Path) -> None:
    special = {"<|fim|>": 260, "<|endoftext|>": 258}
    encoding = tiktoken.Encoding("odd", pat_str=".", mergeable_ranks=SINGLE, special_tokens=special)
    Tokenizer(encoding).save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eot, loaded.vocab_size) == (258, 261)
    assert loaded.decode([97, 260]) == "a"
    with pytest.raises(TokenizerError, match="token 257 is not one of 'odd'"):
        loaded.decode([257])


@pytest.mark.parametrize(
    ("cut", "extra", "message"),
    [
        (-1, b"", r"tokenizer\.tiktoken is not the one that .* was saved with"),
        (300, b"garbage\n", r"tokenizer\.tiktoken line 301 is not"),
        (300, b"a*== 300\n", r"tokenizer\.tiktoken line 301 is not"),
        (300, b"eHh4eHg= 299\n", r"tokenizer\.tiktoken line 301 repeats a token"),
        (300, b"YQ== 300\n", r"tokenizer\.tiktoken line 301 repeats a token"),
        (300, b"eHh4eHg= 4000000000\n", r"line 301 .* out of range: 4000000000"),
        (300, b"eHh4eHg= -1\n", r"line 301 .* out of range: -1"),
        (255, b"", r"tokenizer\.tiktoken .* lacks single bytes"),
        (0, b"", r"tokenizer\.tiktoken .* lacks single bytes"),
    ],
)
def test_a_damaged_rank_file_is_named(saved: Path, cut: int, extra: bytes, message: str) -> None:
    path = saved / "tokenizer.tiktoken"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:cut]) + extra)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pattern", "("),
        ("pattern", 3),
        ("special_tokens", {}),
        ("special_tokens", []),
        ("special_tokens", {"<|endoftext|>": "5"}),
        ("special_tokens", {"<|endoftext|>": 2**40}),
    ],
)
def test_a_damaged_config_is_named(saved: Path, key: str, value: object) -> None:
    path = saved / "fftnet_tokenizer.json"
    config = json.loads(path.read_text())
    assert set(config) == {"name", "pattern", "special_tokens", "num_ranks", "fingerprint"}
    assert config["num_ranks"] == 599
    path.write_text(json.dumps(config | {key: value}))
    with pytest.raises(TokenizerError, match=r"fftnet_tokenizer\.json is damaged, take another"):
        Tokenizer.load(saved)
    path.write_text(json.dumps({other: config[other] for other in config if other != key}))
    with pytest.raises(TokenizerError, match=rf"fftnet_tokenizer\.json is damaged.*{key}"):
        Tokenizer.load(saved)


@pytest.mark.parametrize(("key", "value"), [("pattern", "."), ("special_tokens", {"<|endoftext|>": 700})])
def test_a_changed_config_is_refused(saved: Path, key: str, value: object) -> None:
    path = saved / "fftnet_tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(TokenizerError, match=r"is not the one that .* was saved with"):
        Tokenizer.load(saved)


def test_missing_and_broken_files_are_named(saved: Path) -> None:
    (saved / "fftnet_tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"fftnet_tokenizer\.json is damaged"):
        Tokenizer.load(saved)
    (saved / "tokenizer.tiktoken").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.tiktoken can't be read: No such file"):
        Tokenizer.load(saved)
    (saved / "fftnet_tokenizer.json").unlink()
    (saved / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"fftnet_tokenizer\.json is missing"):
        Tokenizer.load(saved)


def test_blank_lines_in_a_rank_file_are_skipped_as_tiktoken_does(saved: Path) -> None:
    path = saved / "tokenizer.tiktoken"
    path.write_bytes(path.read_bytes() + b"\n\n")
    assert load_tokenizer(str(path)).fingerprint == BPE.fingerprint
