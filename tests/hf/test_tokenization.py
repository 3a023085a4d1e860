"""``AutoTokenizer`` on a folder of ours gives TikToken's ids, and the native side reads its files back."""

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fftnet.data.errors import TokenizerError
from fftnet.data.tokenizer_json import POSSESSIVE
from fftnet.hf import FFTNetTokenizer
from fftnet.hf.tokenization import from_native
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

DOCS = list(topics.values())
CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SUFFIX}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SUFFIX}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
BPE = load_tokenizer("bpe", corpus=DOCS, vocab_size=1000)


def published(pattern: str) -> Tokenizer:
    """Return a small vocabulary with a published pattern, and with special tokens behind a gap."""
    ranks = {BPE.decode_bytes([token]): token for token in range(BPE.vocab_size - 1)}
    special = {"<|endoftext|>": 1003, "<|fim|>": 1001}
    encoding = tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return Tokenizer(encoding)


TOKENIZERS = {
    "bytes": load_tokenizer("bytes"),
    "bpe": BPE,
    "cl100k": published(CL100K),
    "o200k": published(O200K),
}
LIBRARY = {name: from_native(tokenizer) for name, tokenizer in TOKENIZERS.items()}
EACH = pytest.mark.parametrize("name", TOKENIZERS)
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="aelnot 'sSdLl123_.\n\t\r/"),
    st.sampled_from(DOCS),
    st.text(alphabet=" \n1aé漢🙂\x00", max_size=300),
)


@EACH
@settings(deadline=None, max_examples=150)
@given(text=TEXTS)
def test_ids_and_texts_are_those_of_the_native_tokenizer(name: str, text: str) -> None:
    native = TOKENIZERS[name]
    library = LIBRARY[name]
    ids = library(text, split_special_tokens=True).input_ids
    assert ids == native.encode(text)
    assert library.decode(ids) == text == native.decode(ids)


@EACH
def test_a_folder_goes_through_both_sides_and_back(name: str, tmp_path: Path) -> None:
    native = TOKENIZERS[name]
    native.save(tmp_path / "native")
    library = AutoTokenizer.from_pretrained(tmp_path / "native")
    special = (library.eos_token_id, library.bos_token_id, library.pad_token_id)
    assert special == (native.eot, native.eot, native.eot)
    assert (library.padding_side, list(library("a"))) == ("left", ["input_ids", "attention_mask"])
    library.save_pretrained(tmp_path / "library")
    again = Tokenizer.load(tmp_path / "library")
    for field in ("fingerprint", "name", "vocab_size"):
        assert getattr(again, field) == getattr(native, field)
    third = AutoTokenizer.from_pretrained(tmp_path / "library")
    assert all(third(text).input_ids == native.encode(text) for text in DOCS[:20])


def test_end_of_text_in_a_text_is_special_by_default() -> None:
    for name, native in TOKENIZERS.items():
        text = "a<|endoftext|>b"
        assert LIBRARY[name](text).input_ids == [97, native.eot, 98]
        assert LIBRARY[name](text, split_special_tokens=True).input_ids == native.encode(text)
        assert LIBRARY[name].decode([97, native.eot, 98], skip_special_tokens=True) == "ab"


def test_settings_of_the_library_override_those_of_the_folder(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    assert FFTNetTokenizer.from_pretrained(tmp_path, padding_side="right").padding_side == "right"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "is not a byte-level BPE as FFTNet's are: load it"),
        ({"normalizer": {"type": "NFC"}}, "is not a byte-level BPE as FFTNet's are: load it with"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "is not a byte-level BPE as FFTNet's are: load it with"),
        ({"pre_tokenizer": None}, "is damaged, take another checkpoint"),
        ({"model": None}, "is damaged, take another checkpoint"),
        ({"added_tokens": []}, "has no <\\|endoftext\\|>"),
        ({"added_tokens": [{"id": 257, "content": "owl", "special": False}]}, "added token 'owl', which st"),
    ],
)
def test_a_tokenizer_of_another_kind_is_not_taken_for_ours(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    BPE.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)
    path.write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged, take another checkpoint"):
        Tokenizer.load(tmp_path)


def test_a_possessive_count_is_written_as_the_library_s_engine_understands_it() -> None:
    for pattern, written in (
        (r"\p{N}{1,3}+", r"(?>\p{N}{1,3})"),
        (r"[^\]a]{2}+|b{2,}+", r"(?>[^\]a]{2})|(?>b{2,})"),
        (r"\p{N}{1,3}|x++", r"\p{N}{1,3}|x++"),
        (r"\{2}+", r"\{2}+"),
    ):
        assert POSSESSIVE.sub(r"(?>\1)", pattern) == written
    assert LIBRARY["cl100k"]("1234567").input_ids == TOKENIZERS["cl100k"].encode("1234567")
