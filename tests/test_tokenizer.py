"""The tokenizer: round trips, streams, batches, training, saving, and clear errors."""

from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import requests
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Trained

from fftnet.utils import tokenizer as module
from fftnet.utils.tokenizer import Tokenizer, TokenizerError, load_tokenizer

DOCS = list(topics.values())
BYTES = load_tokenizer("bytes")
BPE = load_tokenizer("bpe", corpus=DOCS, vocab_size=600)
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])


@BOTH
@settings(deadline=None)
@given(text=st.text())
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode_bytes(tokens) == text.encode()
    sizes = tokenizer.token_bytes()
    assert sum(sizes[token] for token in tokens) == len(text.encode())


@BOTH
def test_the_name_of_a_special_token_is_ordinary_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a <|endoftext|> b")
    assert tokenizer.eot not in tokens
    assert tokenizer.decode([*tokens, tokenizer.eot]) == "a <|endoftext|> b"


@BOTH
@given(texts=st.lists(st.text(max_size=20), max_size=5))
def test_batches_equal_singles(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@BOTH
@settings(deadline=None)
@given(data=st.data())
def test_a_stream_never_prints_half_a_character(tokenizer: Tokenizer, data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="aé漢🙂\n", max_size=20))
    stream, pieces = tokenizer.stream(), []
    for token in tokenizer.encode(text):
        pieces.append(stream.push(token))
        assert "\N{REPLACEMENT CHARACTER}" not in pieces[-1]
    assert "".join(pieces) + stream.finish() == text


@settings(deadline=None)
@given(raw=st.binary(max_size=20))
def test_a_stream_of_any_bytes_equals_decode(raw: bytes) -> None:
    stream = BYTES.stream()
    assert "".join(stream.push(token) for token in raw) + stream.finish() == BYTES.decode(raw)


def test_bytes_is_what_it_says() -> None:
    assert BYTES.vocab_size == 257
    assert BYTES.eot == 256
    assert BYTES.encode("é") == list("é".encode())
    assert BYTES.token_bytes() == [1] * 256 + [0]


def reference_bpe(tokenizer: Tokenizer) -> Trained:
    """The same vocabulary in the Hugging Face library, merges found by splitting each rank at its parents."""
    characters = module._byte_characters()
    ranks = tokenizer.encoding._mergeable_ranks

    def spell(piece: bytes) -> str:
        return "".join(characters[byte] for byte in piece)

    merges = []
    for piece, rank in sorted(ranks.items(), key=lambda item: item[1])[256:]:
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 2:
            joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            best = joined.index(min(joined))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        merges.append((spell(parts[0]), spell(parts[1])))
    trained = Trained(models.BPE({spell(piece): rank for piece, rank in ranks.items()}, merges))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(module.GPT2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return trained


REFERENCE = reference_bpe(BPE)


@settings(deadline=None, max_examples=200)
@given(text=st.one_of(st.text(), st.text(alphabet="aehlnot '123_.\n\t"), st.sampled_from(DOCS)))
def test_bpe_cuts_a_text_as_the_library_that_trained_it(text: str) -> None:
    assert BPE.encode(text) == REFERENCE.encode(text).ids


def test_bpe_learns_the_size_asked_for_and_compresses() -> None:
    assert BPE.vocab_size == 600
    assert len(BPE.encode(DOCS[0])) < 0.6 * len(DOCS[0].encode())
    assert load_tokenizer("bpe", corpus=["ab ab"], vocab_size=1000).vocab_size < 270


@pytest.mark.parametrize("corpus", [None, [], [""]])
def test_bpe_without_text_is_refused(corpus: list[str] | None) -> None:
    with pytest.raises(TokenizerError, match="hand it a corpus of text, or use bytes"):
        load_tokenizer("bpe", corpus=corpus, vocab_size=300)


def test_bpe_below_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="at least 257"):
        load_tokenizer("bpe", corpus=["abc"], vocab_size=256)


@BOTH
def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
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
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {"<|fim|>": 260, "<|endoftext|>": 258}
    encoding = tiktoken.Encoding("odd", pat_str=".", mergeable_ranks=ranks, special_tokens=special)
    Tokenizer(encoding).save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eot, loaded.vocab_size) == (258, 261)
    assert loaded.decode([97, 260]) == "a"
    with pytest.raises(TokenizerError, match="token 257 is not one of 'odd'"):
        loaded.decode([257])


def test_an_encoding_without_an_end_is_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("endless", pat_str=".", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(TokenizerError, match=r"'endless' has no <\|endoftext\|>"):
        Tokenizer(encoding)


def test_damaged_saves_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    BPE.save(tmp_path)
    ranks = tmp_path / "tokenizer.tiktoken"
    lines = ranks.read_bytes().splitlines(keepends=True)
    ranks.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(TokenizerError, match=r"is not the one that .* was saved with"):
        Tokenizer.load(tmp_path)
    ranks.write_bytes(b"".join(lines[:300]) + b"garbage\n")
    with pytest.raises(TokenizerError, match=r"tokenizer\.tiktoken line 301 is not"):
        Tokenizer.load(tmp_path)
    ranks.write_bytes(b"".join(lines[1:]))
    with pytest.raises(TokenizerError, match="lacks single bytes"):
        load_tokenizer(str(ranks))
    ranks.unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.tiktoken can't be read: No such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged"):
        Tokenizer.load(tmp_path)


def test_a_download_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> tiktoken.Encoding:
        raise requests.ConnectionError(name)

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(
        TokenizerError, match=r"'gpt2' could not be downloaded.*TIKTOKEN_CACHE_DIR.*use bytes"
    ):
        load_tokenizer("gpt2")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TokenizerError, match=r"unknown tokenizer 'word'; choose bytes, bpe.*gpt2"):
        load_tokenizer("word")


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(TokenizerError, match="character 1 is a lone surrogate"):
        BYTES.encode("a\ud800")
