"""Data: splits that share nothing, seekable batches, an exact entropy, digests, and clear errors."""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import BYTES, bpe, in_cache, load_views, load_whole, rows_of, story, write_lines
from grammar_reader import log_probability, violations
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import pictures, write_folder

from fftnet.data.images.loading import load_images
from fftnet.data.synthetic import SyntheticBatches
from fftnet.data.windows import WindowBatches
from fftnet.protocols import Batches
from fftnet.tasks.classification import ClassificationConfig, divide
from fftnet.utils.dataset import (
    DataConfig,
    DataError,
    Splits,
    load_data,
    load_evaluation_data,
    training_texts,
)
from fftnet.utils.tokenizer import load_tokenizer


def all_rows(batches: Batches, epoch: int = 0) -> list[list[int]]:
    """The tokens of all rows of an epoch, without padding."""
    found = [rows_of(batches.batch(epoch, index)) for index in range(batches.num_batches)]
    return [[token for token in row if token >= 0] for rows in found for row in rows.tolist()]


def targets(batches: Batches) -> list[int]:
    return [token for row in all_rows(batches) for token in row[1:]]


def write(folder: Path, **texts: str) -> list[str]:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return [str(folder)]


def test_synthetic_rows_are_documents_and_their_splits_and_epochs_differ() -> None:
    def load(seed: int) -> Splits:
        config = DataConfig(num_samples=20, batch_size=8, pattern_complexity=1.0, data_seed=seed)
        return load_data(config, BYTES, 256)

    splits = load(0)
    assert splits.train.num_batches == 3
    seen = [all_rows(splits.train, epoch) for epoch in (0, 1)]
    seen += [all_rows(splits.valid), all_rows(splits.test)]
    for row in itertools.chain(*seen):
        assert row[0] == row[-1] == BYTES.eot
        assert violations(BYTES.decode(row), 1.0) == []
    assert len(seen[0]) == 20
    texts = [set(map(tuple, rows)) for rows in seen]
    assert len(set.union(*texts)) > 0.95 * sum(map(len, texts))
    assert all_rows(splits.valid, 3) == seen[2]
    assert torch.equal(rows_of(load(0).train.batch(5, 0)), rows_of(splits.train.batch(5, 0)))
    assert all_rows(load(1).train) != seen[0]


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_the_entropy_is_the_mean_surprise_of_the_true_distribution(name: str) -> None:
    config = DataConfig(num_samples=100)
    tokenizer = load_tokenizer(name, corpus=training_texts(config), vocab_size=400)
    splits = load_data(config, tokenizer, 256)
    rows = all_rows(splits.valid)
    nats = -sum(log_probability(tokenizer.decode(row), 0.5) for row in rows)
    assert splits.entropy_floor == pytest.approx(nats / sum(len(row) - 1 for row in rows))


def test_a_sample_that_does_not_fit_says_what_to_do() -> None:
    splits = SyntheticBatches(DataConfig(), BYTES, "train", 16, 60)
    with pytest.raises(DataError, match=r"set max_seq_length to 142, which is enough for all"):
        splits.batch(0, 0)


def test_real_splits_do_not_overlap_and_lose_nothing(tmp_path: Path) -> None:
    marks = [chr(0x4E00 + n) for n in range(3000)]
    texts = {f"t{n}": "".join(marks[n * 300 : (n + 1) * 300]) for n in range(10)}
    config = DataConfig(data=write(tmp_path, **texts), valid_fraction=0.1, test_fraction=0.15)
    seen = [set(BYTES.decode(view[:].tolist())) for view in load_views(config, BYTES)]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 3000
    shares = [len(found) / 3000 for found in seen]
    assert shares == pytest.approx([0.75, 0.1, 0.15], abs=0.04)
    splits = load_data(config, BYTES, 64)
    assert [set(BYTES.decode(targets(batches))) for batches in (splits.valid, splits.test)] == seen[1:]


def test_what_a_model_is_measured_on(tmp_path: Path) -> None:
    config = DataConfig(data=write(tmp_path, a=story(0, 2000), b=story(1, 900)), data_seed=3)
    test = load_data(config, BYTES, 64).test
    measured = load_evaluation_data(config, BYTES, 64)
    assert all_rows(measured.batches) == all_rows(test)
    view = load_views(config, BYTES)[2]
    assert measured.documents is not None
    assert measured.documents.ends.tolist() == view.ends.tolist() != []
    whole = load_evaluation_data(config, BYTES, 64, whole=True)
    assert [BYTES.eot, *targets(whole.batches)] == load_whole(config, BYTES).tokens.tolist()
    assert whole.documents is not None
    assert whole.documents.documents()[0].tolist() == [0, len(story(0, 2000).encode()) + 1]
    synthetic = load_evaluation_data(DataConfig(num_samples=9), BYTES, 256)
    assert synthetic.documents is None
    assert all_rows(synthetic.batches) == all_rows(load_data(DataConfig(num_samples=9), BYTES, 256).test)
    with pytest.raises(DataError, match="synthetic data are samples, not documents: name a real text"):
        load_evaluation_data(DataConfig(), BYTES, 256, whole=True)


@settings(deadline=None, max_examples=40)
@given(count=st.integers(2, 300), length=st.integers(1, 40), batch=st.integers(1, 5))
def test_every_held_out_target_comes_exactly_once(count: int, length: int, batch: int) -> None:
    windows = WindowBatches(np.arange(count, dtype=np.int32), batch, length, None)
    assert targets(windows) == list(range(1, count))


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 40), extra=st.integers(1, 200), batch=st.integers(1, 5))
def test_training_windows_are_full_runs_of_the_text(length: int, extra: int, batch: int) -> None:
    windows = WindowBatches(np.arange(length + extra, dtype=np.int32), batch, length, 0)
    for epoch in range(3):
        for row in all_rows(windows, epoch):
            assert row == list(range(row[0], row[0] + length + 1))


def test_every_training_token_is_reached_and_epochs_differ() -> None:
    windows = WindowBatches(np.arange(205, dtype=np.int32), 4, 20, 0)
    rows = [row for epoch in range(200) for row in all_rows(windows, epoch)]
    assert set(itertools.chain(*rows)) == set(range(205))
    assert all_rows(windows, 0) != all_rows(windows, 1)


def test_only_training_rows_go_on(tmp_path: Path) -> None:
    files = write(tmp_path, a=story(1, 900))
    carried, plain = (
        load_data(DataConfig(data=files, batch_size=4, carry_state=number), BYTES, 16) for number in (3, 0)
    )
    assert [carried.train.batch(0, index).fresh for index in range(4)] == [True, False, False, True]
    assert plain.train.batch(0, 1).fresh is None
    for one, other in ((carried.valid, plain.valid), (carried.test, plain.test)):
        assert one.batch(0, 1).fresh is None
        assert all_rows(one) == all_rows(other)


def test_a_text_too_short_is_named(tmp_path: Path) -> None:
    config = DataConfig(data=write(tmp_path, a="x" * 100))
    with pytest.raises(DataError, match=r"is too short: its training split has [89]\d tokens, a window"):
        load_data(config, BYTES, 256)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", [], "at least one source"),
        ("data", ["synthetic", "a.txt"], "can't be mixed"),
        ("data", ["a.txt", None], r"data must be a string or a list of strings, got \['a.txt', None\]"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("batch_size", 10**10, "batch_size must be at most 1048576, got 10000000000"),
        ("num_samples", 0, "num_samples must be at least 1"),
        ("num_samples", 10**15, "num_samples must be at most 1073741824"),
        ("vocab_size", 10**10, "vocab_size must be at most 16777216"),
        ("carry_state", -1, "carry_state must be 0 or more"),
        ("carry_state", 10**10, "carry_state must be at most 1048576"),
        ("data_seed", -1, "data_seed must be 0 or more"),
        ("in_memory_mb", -1.0, "in_memory_mb must be 0 or more"),
        ("pattern_complexity", 1.1, "pattern_complexity must lie in"),
        ("valid_fraction", 0.0, "must be above 0 and below 0.9 together"),
    ],
)
def test_bad_settings_end_in_a_sentence(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**{field: value})  # pyright: ignore[reportArgumentType]


def test_a_single_string_or_path_is_a_list_of_one() -> None:
    for value in ("my.txt", Path("my.txt"), ["my.txt"], (Path("my.txt"),)):
        assert DataConfig(data=value).data == ["my.txt"]  # pyright: ignore[reportArgumentType]
    assert DataConfig(data="synthetic").synthetic  # pyright: ignore[reportArgumentType]


def digest(*paths: Path, tokenizer: Any = BYTES, **values: Any) -> str:
    found = load_data(DataConfig(data=[str(path) for path in paths], **values), tokenizer, 16).digest
    assert found is not None
    return found


def test_a_text_has_one_digest_however_and_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(story(0, 2000), encoding="utf-8")
    whole = digest(path)
    assert digest(path, tokenizer=bpe()) == whole
    cached = in_cache(tmp_path, path)
    assert load_data(cached, BYTES, 16).digest == load_data(cached, BYTES, 16).digest == whole
    (tokens,) = (tmp_path / "cache").glob("*.tokens")
    assert digest(tokens) == whole
    assert load_evaluation_data(cached, BYTES, 16).digest == whole
    assert load_evaluation_data(cached, BYTES, 16, whole=True).digest == whole
    moved = shutil.copyfile(path, tmp_path / "moved.txt")
    os.utime(moved, (0, 0))
    assert digest(moved) == whole
    monkeypatch.setattr("fftnet.data.splits.CHUNK", 100)
    monkeypatch.setattr("fftnet.data.sources.text.READ_BYTES", 7)
    assert digest(path) == whole


def test_changed_text_and_other_documents_have_another_digest(tmp_path: Path) -> None:
    texts = [story(n, 100) for n in range(20)]
    changed = [[*texts[:-1], texts[-1][:-1] + "?"], [texts[0] + texts[1], *texts[2:]], texts[::-1]]
    changed += [texts, [*texts, "more"]]
    assert len({digest(write_lines(tmp_path / "a.jsonl", each)) for each in changed}) == 5
    assert load_data(DataConfig(), BYTES, 300).digest is None


def test_the_digest_of_a_table_is_that_of_its_texts_and_labels(tmp_path: Path) -> None:
    def of(text: str, name: str = "a.csv", **settings: Any) -> str:
        (tmp_path / name).write_text(text)
        return divide(DataConfig(data=[str(tmp_path / name)]), ClassificationConfig(**settings))[1]

    rows = "".join(f"word {n},{'xy'[n % 2]}\n" for n in range(20))
    whole = of("text,label\n" + rows)
    assert of("text,label\n" + rows, "b.csv") == whole
    assert of("text,id,label\n" + rows.replace(",", ",7,")) == whole
    other = [of("text,label\n" + rows + "more,x\n"), of("text,label\n" + rows.replace("19,y", "19,x"))]
    other.append(of("text,label\n" + rows, "c.csv", test_data=[str(tmp_path / "b.csv")]))
    assert len({whole, *other}) == 4


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_the_digest_of_images_notices_added_and_relabelled_ones(kind: str, tmp_path: Path) -> None:
    def of(name: str, count: int = 20, classes: tuple[str, str] = ("left", "below")) -> str:
        path = tmp_path / name
        if kind == "npz":
            images, labels = pictures(count)
            path = tmp_path / f"{name}.npz"
            np.savez(path, images=images, labels=labels, class_names=np.array(classes))
        else:
            write_folder(path, count, classes=classes)
        return load_images(DataConfig(data=[str(path)])).digest

    whole = of("one")
    assert of("copy") == whole
    assert len({whole, of("more", 21), of("named", classes=("below", "left"))}) == 3
