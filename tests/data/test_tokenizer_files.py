"""Saved tokenizers: the same when loaded, nothing damaged is taken, and a missing package is named."""

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

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


ANYTHING = [None, True, 3, -1, 2.5, "x", "\ud800", "(", [], [1], ["x"], {}, {"a": 1}, {"a": [1]}, 10**30]
DEEP = [b"[" * 10**5, b'{"a":' * 10**5, b"\xff", b"null", b"3", b"[]", b" " * (2**25 + 1)]


def harmless(folder: Path) -> None:
    """Load a tokenizer of any content: it works, or it is refused in a sentence."""
    try:
        loaded = Tokenizer.load(folder)
        loaded.decode(loaded.encode("a text"))
    except TokenizerError:
        return


@pytest.mark.parametrize(
    "keys",
    [
        *[("added_tokens",), ("pre_tokenizer",), ("normalizer",), ("model",)],
        *[("model", "type"), ("model", "vocab"), ("model", "vocab", "a"), ("model", "vocab", "Ġ")],
        *[("added_tokens", 0), ("added_tokens", 0, "content"), ("added_tokens", 0, "id")],
        *[
            ("pre_tokenizer", "type"),
            ("pre_tokenizer", "pretokenizers"),
            ("pre_tokenizer", "pretokenizers", 0),
        ],
        *[("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")],
    ],
    ids=str,
)
def test_a_tokenizer_json_of_any_content_ends_in_a_sentence(saved: Path, keys: tuple[Any, ...]) -> None:
    (saved / "fftnet_tokenizer.json").unlink()
    path = saved / "tokenizer.json"
    described = json.loads(path.read_text())
    owner = described
    for key in keys[:-1]:
        owner = owner[key]
    for value in ANYTHING:
        owner[keys[-1]] = value
        path.write_text(json.dumps(described))
        harmless(saved)


@pytest.mark.parametrize("name", ["fftnet_tokenizer.json", "tokenizer.json", "tokenizer.tiktoken"])
def test_files_of_no_json_too_deep_or_too_large_are_refused(saved: Path, name: str) -> None:
    if name == "tokenizer.json":
        (saved / "fftnet_tokenizer.json").unlink()
    for content in DEEP:
        (saved / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=name):
            Tokenizer.load(saved)


def test_a_rank_file_that_is_a_device_or_too_large_is_not_read(tmp_path: Path) -> None:
    for path, target in ((tmp_path / "a.tiktoken", "/dev/zero"), (tmp_path / "b.tiktoken", "large")):
        path.symlink_to(target)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    for name in ("a", "b"):
        with pytest.raises(TokenizerError, match=r"must be a regular file of at most 67,108,864 bytes"):
            load_tokenizer(str(tmp_path / f"{name}.tiktoken"))


def test_vocabularies_that_tiktoken_panics_at_are_refused(saved: Path) -> None:
    (saved / "fftnet_tokenizer.json").unlink()
    path = saved / "tokenizer.json"
    described = json.loads(path.read_text())
    vocabulary = described["model"]["vocab"]
    for changed, message in (
        (vocabulary | {"a": 3}, "two tokens have the same number"),
        (vocabulary | {"a": 2**40}, "a token must have a number from 0 to 16777215, got 1099511627776"),
        ({"a": 1}, "it lacks single bytes"),
    ):
        path.write_text(json.dumps(described | {"model": described["model"] | {"vocab": changed}}))
        with pytest.raises(TokenizerError, match=rf"tokenizer\.json is damaged, take another.*{message}"):
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
