"""The tokenizer: round trips, streams, batches, training, and clear errors."""

from pydoc_data.topics import topics

import numpy as np
import pytest
import requests
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from fftnet.data.encodings import BYTES as BYTES_DEFINITION
from fftnet.data.encodings import BytesEncoding, Definition, build_encoding, byte_stand_ins, train_bpe
from fftnet.utils import tokenizer as module
from fftnet.utils.tokenizer import Tokenizer, TokenizerError, load_tokenizer

DOCS = list(topics.values())
BYTES = load_tokenizer("bytes")
BPE = load_tokenizer("bpe", corpus=DOCS, vocab_size=600)
SINGLE = {bytes([byte]): byte for byte in range(256)}
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])


@BOTH
@settings(deadline=None)
@given(text=st.text(), texts=st.lists(st.text(max_size=20), max_size=5))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str, texts: list[str]) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode_bytes(tokens) == text.encode()
    sizes = tokenizer.token_bytes()
    assert sum(sizes[token] for token in tokens) == len(text.encode())
    assert tokenizer.encode_batch(iter(texts)) == [tokenizer.encode(text) for text in texts]


@BOTH
def test_the_name_of_a_special_token_is_ordinary_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a <|endoftext|> b")
    assert tokenizer.eot not in tokens
    assert tokenizer.decode([*tokens, tokenizer.eot]) == "a <|endoftext|> b"


def test_a_gap_that_tiktoken_panics_on_is_cut() -> None:
    text = "a" + " " * (2 * module.MAX_GAP + 1) + "b"
    assert BPE.decode(BPE.encode(text)) == text
    handed: list[str] = []

    class Watched(BytesEncoding):
        def encode_ordinary(self, text: str) -> list[int]:
            handed.append(text)
            return super().encode_ordinary(text)

    watched = Tokenizer(Watched())
    assert watched.encode(text) == list(text.encode())
    assert "".join(handed) == text
    assert max(map(len, handed)) <= module.MAX_GAP + 1
    handed.clear()
    watched.encode("a b" * 10)
    assert handed == ["a b" * 10]


@BOTH
@settings(deadline=None)
@given(data=st.data())
def test_a_stream_of_any_ids_equals_decode_and_knows_where_each_token_starts(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    # ED A0 begins a surrogate, which UTF-8 does not have: two replacement characters, known only at the end.
    ids = st.one_of(
        st.integers(0, tokenizer.vocab_size - 1),
        st.integers(0x80, 0xFF),
        st.sampled_from([0xED, 0xA0, tokenizer.eot]),
    )
    written = tokenizer.encode(data.draw(st.text(alphabet="aé漢🙂", max_size=9)))
    tokens = [*written, *data.draw(st.lists(ids, max_size=20))]
    stream = tokenizer.stream()
    read = b""
    text = ""
    for token in tokens:
        text += stream.push(token)
        content = tokenizer.decode_bytes([token])
        if content:
            assert stream.start == len((read + content[:1]).decode("utf-8", errors="replace")) - 1
        read += content
    assert text + stream.finish() == tokenizer.decode(tokens)


def test_a_broken_character_is_replaced_and_an_end_inside_a_character_is_nothing() -> None:
    first, second = "é".encode()
    assert BYTES.decode([first, BYTES.eot, second]) == "é"
    assert BYTES.decode([first, 0x61]) == "\N{REPLACEMENT CHARACTER}a"
    stream = BYTES.stream()
    assert (stream.push(first), stream.finish()) == ("", "\N{REPLACEMENT CHARACTER}")


@BOTH
@pytest.mark.parametrize("excess", [0, 10, -1000])
def test_an_id_out_of_range_is_refused(tokenizer: Tokenizer, excess: int) -> None:
    token = tokenizer.vocab_size + excess
    with pytest.raises(TokenizerError, match=f"token {token} is not one of"):
        tokenizer.decode([token])
    with pytest.raises(TokenizerError, match=f"token {token} is not one of"):
        tokenizer.stream().push(token)


@settings(deadline=None)
@given(text=st.text())
def test_bytes_without_tiktoken_are_those_of_tiktoken(text: str) -> None:
    pattern, ranks, special_tokens = BYTES_DEFINITION
    ranks, special_tokens = dict(ranks), dict(special_tokens)
    other = Tokenizer(
        tiktoken.Encoding("bytes", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
    )
    assert BYTES.encode(text) == other.encode(text)
    assert BYTES.encode_array(text).tolist() == other.encode_array(text).tolist()
    assert BYTES.encode_array(text).dtype == np.uint32
    assert BYTES.fingerprint == other.fingerprint
    assert (BYTES.name, BYTES.vocab_size, BYTES.eot) == (other.name, 257, 256)
    assert BYTES.token_bytes() == other.token_bytes() == [1] * 256 + [0]


# Its ids differ from ours (it sorts bytes by their stand-ins), so cuts are compared, not ids.
TRAINED = train_bpe(DOCS, 600)
STAND_INS = {byte: character for character, byte in byte_stand_ins().items()}


def test_the_stand_ins_are_the_librarys() -> None:
    assert sorted(byte_stand_ins()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(STAND_INS) == list(range(256))


@settings(deadline=None, max_examples=200)
@given(text=st.one_of(st.text(), st.text(alphabet="aehlnot '123_.\n\t"), st.sampled_from(DOCS)))
def test_bpe_cuts_a_text_as_the_library_that_trained_it(text: str) -> None:
    ours = [BPE.decode_bytes([token]) for token in BPE.encode(text)]
    assert ["".join(STAND_INS[byte] for byte in piece) for piece in ours] == TRAINED.encode(text).tokens
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert TRAINED.pre_tokenizer is not None
    assert [word for word, _ in TRAINED.pre_tokenizer.pre_tokenize_str(text)] == [word for word, _ in words]


def test_bpe_learns_the_size_asked_for_and_compresses_and_is_repeatable() -> None:
    assert BPE.vocab_size == 600
    assert len(BPE.encode(DOCS[0])) < 0.6 * len(DOCS[0].encode())
    assert load_tokenizer("bpe", corpus=iter(DOCS), vocab_size=600).fingerprint == BPE.fingerprint
    assert load_tokenizer("bpe", corpus=["ab ab"], vocab_size=1000).vocab_size < 270
    assert load_tokenizer("bpe", corpus=["a"], vocab_size=1000).vocab_size == 257


@pytest.mark.parametrize(
    ("corpus", "vocab_size", "message"),
    [
        *((corpus, 300, "hand it a corpus of text, or use bytes") for corpus in (None, [], [""])),
        *((["abc"], size, f"at least 257 .*, got {size}") for size in (None, 256)),
        (["a\ud800"], 300, "character 1 is a lone surrogate"),
    ],
)
def test_bpe_is_refused_with_a_reason(corpus: list[str] | None, vocab_size: int | None, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer("bpe", corpus=corpus, vocab_size=vocab_size)


def test_an_encoding_without_an_end_is_refused() -> None:
    encoding = tiktoken.Encoding("endless", pat_str=".", mergeable_ranks=SINGLE, special_tokens={})
    with pytest.raises(TokenizerError, match=r"'endless' has no <\|endoftext\|>"):
        Tokenizer(encoding)


def test_any_difference_changes_the_fingerprint() -> None:
    end = {"<|endoftext|>": 300}
    variants = [
        Definition(".", SINGLE, end),
        Definition("..", SINGLE, end),
        Definition(".", SINGLE | {b"a": SINGLE[b"b"], b"b": SINGLE[b"a"]}, end),
        Definition(".", SINGLE | {b"ab": 256}, end),
        Definition(".", SINGLE, {"<|endoftext|>": 301}),
        Definition(".", SINGLE, end | {"<|fim|>": 299}),
    ]
    fingerprints = {Tokenizer(build_encoding("x", variant)).fingerprint for variant in variants}
    assert len(fingerprints) == len(variants)


@pytest.mark.parametrize("error", [requests.ConnectionError, requests.HTTPError, PermissionError, ValueError])
def test_a_download_without_a_network_says_what_to_do(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str) -> tiktoken.Encoding:
        raise error(name)

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(TokenizerError, match=r"'gpt2' could not be.*TIKTOKEN_CACHE_DIR.*use bytes"):
        load_tokenizer("gpt2")


def test_unknown_names_and_lone_surrogates_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"unknown tokenizer 'word'; choose bytes, bpe.*gpt2"):
        load_tokenizer("word")
    with pytest.raises(TokenizerError, match="character 1 is a lone surrogate"):
        BYTES.encode("a\ud800")
    with pytest.raises(TokenizerError, match="character 0 is a lone surrogate"):
        BPE.encode_batch(["a", "\ud800"])
