"""Saved tokenizers: the same when loaded, nothing damaged is taken, and a missing package is named."""

import base64
import contextlib
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
FROZEN = Path(__file__).parents[1] / "frozen" / "run" / "step-00000012"
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])


RANK_FILE = b"".join(base64.b64encode(piece) + b" %d\n" % n for n, piece in BPE._bytes.items() if piece)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    BPE.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "package"),
    [("bpe", "tokenizers"), ("bpe", "tiktoken"), ("gpt2", "tiktoken"), ("some.tiktoken", "tiktoken")],
)
def test_a_missing_package_is_named(
    tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.tiktoken").write_bytes(RANK_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    stem = name.removesuffix(".tiktoken")
    message = rf"^the tokenizer '{stem}' needs {package}: pip install '\.\[text\]' in a clone"
    with pytest.raises(TokenizerError, match=message):
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
    assert {path.name for path in tmp_path.iterdir()} == {
        *("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    }
    for loaded in (Tokenizer.load(str(tmp_path)), load_tokenizer(str(tmp_path))):
        assert loaded.fingerprint == tokenizer.fingerprint
        assert repr(loaded) == f"Tokenizer('{tokenizer.name}', vocab_size={tokenizer.vocab_size})"
        assert loaded.encode(DOCS[1]) == tokenizer.encode(DOCS[1])
        assert loaded.eot == tokenizer.eot


def test_a_checkpoint_of_version_0_2_has_the_fingerprint_of_then() -> None:
    stored = json.loads((FROZEN / "fftnet_tokenizer.json").read_text())
    loaded = Tokenizer.load(FROZEN)
    assert (loaded.fingerprint, loaded.name) == (stored["fingerprint"], stored["name"])


def test_a_rank_file_is_a_tokenizer_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "ranks.tiktoken"
    # Blank lines are skipped, as TikToken does.
    path.write_bytes(RANK_FILE + b"\n\n")
    loaded = load_tokenizer(str(path))
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
        (300, b"garbage\n", "is not a rank file"),
        (300, b"a*== 300\n", "is not a rank file"),
        (300, b"eHh4eHg= 299\n", "two tokens have the same number"),
        (300, b"YQ== 300\n", "a token comes twice"),
        (300, b"eHh4eHg= 4000000000\n", "a number from 0 to 16777215, got 4000000000"),
        (300, b"eHh4eHg= -1\n", "a number from 0 to 16777215, got -1"),
        (255, b"", "it lacks single bytes"),
        *((0, content, "is not a rank file") for content in (b"", b"[" * 10**5, b"\xff", b"null")),
    ],
)
def test_a_damaged_rank_file_is_named(tmp_path: Path, cut: int, extra: bytes, message: str) -> None:
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes(b"".join(RANK_FILE.splitlines(keepends=True)[:cut]) + extra)
    with pytest.raises(TokenizerError, match=rf"ranks\.tiktoken.*{message}"):
        load_tokenizer(str(path))


ANYTHING = [None, True, 3, -1, 2.5, "x", "\ud800", "(", [], [1], ["x"], {}, {"a": 1}, {"a": [1]}, 10**30]
DEEP = [b"[" * 10**5, b'{"a":' * 10**5, b"\xff", b"null", b"3", b"[]", b" " * (2**25 + 1)]


@pytest.mark.parametrize(
    "keys",
    [
        *((name,) for name in ("added_tokens", "pre_tokenizer", "normalizer", "model")),
        *[("model", "type"), ("model", "vocab"), ("model", "vocab", "a"), ("model", "vocab", "Ġ")],
        *[("added_tokens", 0), ("added_tokens", 0, "content"), ("added_tokens", 0, "id")],
        *(("pre_tokenizer", *path) for path in (["type"], ["pretokenizers"], ["pretokenizers", 0])),
        ("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"),
    ],
    ids=str,
)
def test_a_tokenizer_json_of_any_content_ends_in_a_sentence(saved: Path, keys: tuple[Any, ...]) -> None:
    path = saved / "tokenizer.json"
    described = json.loads(path.read_text())
    owner = described
    for key in keys[:-1]:
        owner = owner[key]
    for value in ANYTHING:
        owner[keys[-1]] = value
        path.write_text(json.dumps(described))
        # It works, or it is refused in a sentence.
        with contextlib.suppress(TokenizerError):
            loaded = Tokenizer.load(saved)
            loaded.decode(loaded.encode("a text"))


def test_files_of_no_json_too_deep_too_large_or_missing_are_refused(saved: Path) -> None:
    for content in DEEP:
        (saved / "tokenizer.json").write_bytes(content)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            Tokenizer.load(saved)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing: is .* a checkpoint\?"):
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
    path = saved / "tokenizer.json"
    described = json.loads(path.read_text())
    for pattern in ("(", 3):
        changed = json.loads(path.read_text())
        changed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        path.write_text(json.dumps(changed))
        with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged, take another"):
            Tokenizer.load(saved)
    vocabulary = described["model"]["vocab"]
    for changed, message in (
        (vocabulary | {"a": 3}, "two tokens have the same number"),
        (vocabulary | {"a": 2**40}, "a token must have a number from 0 to 16777215, got 1099511627776"),
        ({"a": 1}, "it lacks single bytes"),
    ):
        path.write_text(json.dumps(described | {"model": described["model"] | {"vocab": changed}}))
        with pytest.raises(TokenizerError, match=rf"tokenizer\.json is damaged, take another.*{message}"):
            Tokenizer.load(saved)
