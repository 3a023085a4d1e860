"""Splits: one rule for every text, in memory or not; right by size, nothing lost, nothing twice."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import BYTES, bpe, expected, in_cache, load_views, load_whole, story, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from fftnet.data import splits
from fftnet.data.splits import BLOCK, TEST, TRAIN, VALID, Chunk, assign_splits, segments
from fftnet.data.tokens import SplitView
from fftnet.utils import dataset
from fftnet.utils.dataset import training_texts
from fftnet.utils.tokenizer import Tokenizer

FRACTIONS = st.floats(0.01, 0.44)


def marked(lengths: list[int]) -> list[str]:
    """Documents of these lengths, in which no character but the space comes twice."""
    marks = map(chr, itertools.count(0x4E00))
    return ["".join(" " if n % 7 == 6 else next(marks) for n in range(length)) for length in lengths]


def text_of(view: SplitView, tokenizer: Tokenizer = BYTES) -> str:
    return tokenizer.decode(view[:].tolist())


def described(view: SplitView) -> list[list[int]]:
    return [each.tolist() for each in (view[:], view.starts, view.ends, *view.documents())]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30) | st.integers(1, 900), min_size=1, max_size=30),
    valid=FRACTIONS,
    test=FRACTIONS,
    seed=st.integers(0, 5),
)
def test_what_fits_into_memory_does_not_decide_the_splits(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], valid: float, test: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    texts = marked(lengths)
    path = write_lines(folder / "a.jsonl", texts)
    values: dict[str, Any] = {"data_seed": seed, "valid_fraction": valid, "test_fraction": test}
    on_disk, in_memory = (in_cache(folder, path, **values, in_memory_mb=size) for size in (0.0, 32.0))
    views = load_views(on_disk, BYTES)
    assert list(map(described, views)) == list(map(described, load_views(in_memory, BYTES)))
    assert len(list((folder / "cache").glob("*.tokens"))) == 1
    assert list(training_texts(on_disk)) == list(training_texts(in_memory))
    held = [set(text_of(view)) - {" "} for view in views]
    assert sum(map(len, held)) == len(set("".join(texts)) - {" "})
    assert set.union(*held) == set("".join(texts)) - {" "}
    assert set("".join(training_texts(on_disk))) - {" "} == held[TRAIN]
    # Each token is owned once, and a document is in pieces only where they are in several splits.
    whole = expected(BYTES, texts)
    assert views[0].tokens.tolist() == whole
    split_of = np.full(len(whole), -1)
    for number, view in enumerate(views):
        for start, end in zip(view.starts, view.ends, strict=True):
            assert set(split_of[start:end]) == {-1}
            split_of[start:end] = number
    assert (split_of[1:] >= 0).all()
    for number, view in enumerate(views):
        assert view[3:17].tolist() == view[:].tolist()[3:17]
        starts, ends = view.documents()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            assert set(split_of[start + 1 : end]) == {number}
            assert whole[start] == BYTES.eot or split_of[start] != number
            assert whole[end - 1] == BYTES.eot or split_of[end] != number
            assert BYTES.eot not in whole[start + 1 : end - 1]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(0, 40) | st.integers(0, 3000), max_size=40), cuts=st.integers(1, 500))
def test_segments_are_long_enough_and_cut_long_documents_only(lengths: list[int], cuts: int) -> None:
    texts = marked(lengths)
    chunks = [
        Chunk(f"{n}", text[at : at + cuts], ends_document=at + cuts >= len(text))
        for n, text in enumerate(texts)
        for at in range(0, max(len(text), 1), cuts)
    ]
    parts = list(segments(chunks))
    total = sum(lengths)
    least = max(1, total // 100)
    assert "".join(part.text for part in parts) == "".join(texts)
    assert [part.name for part in parts if part.ends_document] == [f"{n}" for n in range(len(texts))]
    segment = piece = 0
    for part in parts:
        segment += len(part.text)
        piece += len(part.text)
        if part.ends_segment:
            assert segment >= least
            assert part.ends_document or len(texts[int(part.name)]) > least
            assert part.ends_document or piece >= least
        elif part.ends_document:
            assert segment < least
        else:
            # A document that is long enough is cut where a chunk ends, if not before.
            assert piece < least
        assert piece <= 2 * least
        segment = 0 if part.ends_segment else segment
        piece = 0 if part.ends_segment or part.ends_document else piece
    if total > 1000:
        assert 25 <= sum(part.ends_segment for part in parts) <= total // least


def test_in_a_larger_text_segments_have_one_size_and_documents_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SEGMENT", 50)
    monkeypatch.setattr(splits, "LONGEST_DOCUMENT", 400)
    word = "word " * 10_000
    taken: list[int] = []

    def endless() -> Iterator[Chunk]:
        for number in itertools.count():
            taken.append(number)
            yield Chunk(f"{number}", word[: (20, 90, 1000)[number % 3]], ends_document=True)

    pieces: dict[str, list[int]] = {}
    segment = 0
    for part in itertools.islice(segments(endless()), 1000):
        pieces.setdefault(part.name, []).append(len(part.text))
        segment += len(part.text)
        if part.ends_segment:
            assert segment >= 50
            segment = 0
    # 100 segments are looked ahead at, and no more is held.
    assert max(map(int, pieces)) + 20 > max(taken)
    assert max(pieces["2"]) < 100
    read = 20
    for lengths in list(pieces.values())[1:-1]:
        longest = max(50, min(read // 100, 400))
        if sum(lengths) <= longest:
            assert len(lengths) == 1
        read += sum(lengths)
    # Cut before a word, a word at most behind the 400th character.
    assert 400 <= max(max(lengths) for lengths in pieces.values()) <= 405


def test_a_text_that_is_longer_in_the_end_keeps_its_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SEGMENT", 20)
    texts = marked([30] * 400)
    path = write_lines(tmp_path / "a.jsonl", texts[:300])
    before = [set(text_of(view)) for view in load_views(in_cache(tmp_path, path), BYTES)]
    write_lines(path, texts)
    after = [set(text_of(view)) for view in load_views(in_cache(tmp_path, path), BYTES)]
    assert all(early <= late for early, late in zip(before, after, strict=True))


@settings(deadline=None, max_examples=100)
@given(valid=FRACTIONS, test=FRACTIONS, seed=st.integers(0, 2**70), count=st.integers(1, 500))
def test_every_stretch_has_its_share(valid: float, test: float, seed: int, count: int) -> None:
    def assigned(count: int, first: int = 0) -> np.ndarray:
        return assign_splits(count, valid_fraction=valid, test_fraction=test, seed=seed, first=first)

    found = assigned(count)
    assert found.dtype == np.uint8
    assert len(found) == count
    assert assigned(count + 77)[:count].tolist() == found.tolist()
    assert assigned(30, first=count).tolist() == assigned(count + 30)[count:].tolist()
    for split, fraction in ((VALID, valid), (TEST, test), (TRAIN, 1 - valid - test)):
        slack = 1 if split != TRAIN else 2
        for blocks in range(1, count // BLOCK + 1):
            size = BLOCK * blocks
            assert abs((found[:size] == split).sum() - fraction * size) <= slack
            assert (found[size - BLOCK : size] == split).any() or fraction < 0.05
        if count >= BLOCK:
            assert (found[:BLOCK] == split).any()


def test_fractions_are_met_exactly_and_the_choice_is_spread() -> None:
    found = assign_splits(20_000, valid_fraction=0.05, test_fraction=0.15, seed=1)
    blocks = found.reshape(-1, BLOCK)
    assert ((blocks == VALID).sum(axis=1) == 1).all()
    assert ((blocks == TEST).sum(axis=1) == 3).all()
    places = (blocks == TEST).mean(axis=0)
    assert places == pytest.approx(np.full(BLOCK, 0.15), abs=0.05)
    other = assign_splits(20_000, valid_fraction=0.05, test_fraction=0.15, seed=2)
    assert ((found == TEST) & (other == TEST)).mean() == pytest.approx(0.15**2, abs=0.005)


def test_another_seed_takes_other_splits_of_the_same_file(tmp_path: Path) -> None:
    texts = [f"document {n} " * 3 for n in range(2000)]
    path = write_lines(tmp_path / "a.jsonl", texts)
    tests: list[set[str]] = []
    for seed in (0, 1):
        config = in_cache(tmp_path, path, data_seed=seed)
        views = load_views(config, BYTES)
        shares = [len(view.documents()[0]) / 2000 for view in views]
        assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
        found = [text_of(view) for view in views]
        assert list(training_texts(config)) == [text for text in texts if text in found[TRAIN]]
        tests.append({text for text in texts if text in found[TEST]})
    assert len(tests[0] & tests[1]) < 40
    assert len(list((tmp_path / "cache").glob("*.tokens"))) == 1


@pytest.mark.parametrize("words", [400, 2000])
@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_a_single_long_document_is_cut_for_its_splits(tmp_path: Path, words: int, name: str) -> None:
    tokenizer = BYTES if name == "bytes" else bpe()
    path = tmp_path / "text.txt"
    path.write_text(story(0, words), encoding="utf-8")
    config = in_cache(tmp_path, path)
    views = load_views(config, tokenizer)
    shares = [sum(view.ends - view.starts) / (len(views[0].tokens) - 1) for view in views]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.02)
    assert [len(view.starts) > 2 for view in views] == [True, True, True]
    assert len(views[0].document_ends) == 1
    assert load_whole(config, tokenizer).documents()[0].tolist() == [0]
    assert load_whole(config, tokenizer).documents()[1].tolist() == [len(views[0].tokens)]
    assert "".join(training_texts(config)) == text_of(views[TRAIN], tokenizer)
    for view in views:
        starts, ends = view.documents()
        assert starts.tolist() == (view.starts - 1).tolist()
        assert ends.tolist() == view.ends.tolist()


def test_a_tokenizer_learns_from_an_even_sample_of_a_large_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"document {n} " * 3 for n in range(2000)]
    config = in_cache(tmp_path, write_lines(tmp_path / "a.jsonl", texts))
    everything = list(training_texts(config))
    size = sum(map(len, texts))
    monkeypatch.setattr(dataset, "LEARNED_CHARACTERS", size // 4)
    sample = list(training_texts(config))
    assert set(sample) < set(everything)
    assert 0.5 < 4 * sum(map(len, sample)) / size < 1.2
    numbers = [int(text.split()[1]) for text in sample]
    assert numbers == sorted(numbers)
    assert np.histogram(numbers, bins=4, range=(0, 2000))[0].min() > 20


def test_the_size_of_what_surrounds_the_text_does_not_matter(tmp_path: Path) -> None:
    texts = [story(n, 20) for n in range(300)]
    bare = write_lines(tmp_path / "bare.jsonl", texts)
    wrapped = tmp_path / "wrapped.jsonl"
    wrapped.write_text("\n".join(json.dumps({"text": text, "more": "x" * 5000}) for text in texts))
    found = [list(map(described, load_views(in_cache(tmp_path, path), BYTES))) for path in (bare, wrapped)]
    assert found[0] == found[1]
