"""Windows: seekable in any order, none lost, none across two documents when asked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fftnet.data import permutation
from fftnet.data.permutation import permute_indices
from fftnet.data.tokens import SplitView, TokenArrays, view_segments
from fftnet.data.windows import DocumentBatches, StretchBatches, WindowBatches, text_batch


def documents(sizes: list[int]) -> SplitView:
    """Documents whose tokens are 1, 2, 3, ... throughout, each ended by a 0."""
    tokens = [0]
    ends: list[int] = []
    count = 0
    for size in sizes:
        tokens += [*range(count + 1, count + size + 1), 0]
        count += size
        ends.append(len(tokens))
    positions = np.array(ends, np.uint64)
    return view_segments(TokenArrays(np.array(tokens), positions, positions))


def test_a_batch_of_rows_of_any_lengths() -> None:
    batch = text_batch([[1, 2, 3, 4], np.array([5, 6], np.uint16), [7, 8, 9]])
    assert batch.inputs.tolist() == [[1, 2, 3], [5, 6, 0], [7, 8, 9]]
    assert batch.targets.tolist() == [[2, 3, 4], [6, 0, 0], [8, 9, 0]]
    assert batch.loss_mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[True] * 3, [True, True, False], [True] * 3]
    assert text_batch([[1, 2, 3], [4, 5]]).attention_mask is None
    padded = text_batch([[1, 2, 3], [4, 5, 6]], length=5)
    assert padded.inputs.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]]
    assert padded.loss_mask.tolist() == [[True, True, False, False]] * 2
    padded.inputs[0, 1] = 9
    assert padded.targets[0, 0] == 2


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 3000), key=st.integers(0, 2**70))
def test_places_are_permuted(count: int, key: int) -> None:
    places = permute_indices(np.arange(count), count, key)
    assert np.sort(places).tolist() == list(range(count))
    assert permute_indices(np.arange(count)[-3:], count, key).tolist() == places[-3:].tolist()


def test_a_permutation_is_spread_evenly_and_depends_on_its_key() -> None:
    count = 10_000
    places = permute_indices(np.arange(count), count, 1)
    assert abs(np.corrcoef(places, np.arange(count))[0, 1]) < 0.04
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.04
    assert (places == permute_indices(np.arange(count), count, 2)).mean() < 0.002
    far = permute_indices(np.arange(10**12 - 1000, 10**12), 10**12, 3)
    assert len(set(far.tolist())) == 1000
    assert 0 <= far.min() < 10**10
    assert 0.99 * 10**12 < far.max() < 10**12


def test_a_huge_shuffle_holds_no_order_and_keeps_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "MAX_SHUFFLED", 10)
    batches = WindowBatches(np.arange(1001), 8, 10, 3)
    for epoch in range(2):
        rows = torch.cat([rows_of(batches.batch(epoch, index)) for index in range(batches.num_batches)])
        assert sorted((rows[:, 0] // 10).tolist()) == list(range(100))
        assert rows[:, 0].tolist() != sorted(rows[:, 0].tolist())
    assert rows_of(batches.batch(0, 2)).tolist() != rows_of(batches.batch(1, 2)).tolist()


def test_a_batch_depends_on_epoch_and_index_alone(tmp_path: Path) -> None:
    np.arange(5001, dtype=np.uint16).tofile(tmp_path / "tokens")
    mapped = WindowBatches(np.memmap(tmp_path / "tokens", np.uint16, "r"), 4, 16, 7)
    places = [(epoch, index) for epoch in (0, 1, 2) for index in range(5)]
    alone = {
        place: WindowBatches(np.arange(5001), 4, 16, 7).batch(*place).inputs.tolist() for place in places
    }
    for order in (places, places[::-1]):
        assert {place: mapped.batch(*place).inputs.tolist() for place in order} == alone


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    length=st.integers(1, 12),
    batch=st.integers(1, 5),
    seed=st.sampled_from([None, 0, 1]),
)
def test_no_row_holds_two_documents_and_every_target_comes_once(
    sizes: list[int], length: int, batch: int, seed: int | None
) -> None:
    batches = DocumentBatches(documents(sizes), batch, length, seed)
    targets: list[int] = []
    for index in range(batches.num_batches):
        rows = rows_of(batches.batch(4, index))
        assert (rows >= 0).sum(dim=1).max() == rows.shape[1] <= length + 1
        for row in rows.tolist():
            kept = [token for token in row if token >= 0]
            assert row == kept + [-1] * (len(row) - len(kept))
            assert 0 not in kept[1:-1]
            targets += kept[1:]
    assert sorted(targets) == [0] * len(sizes) + list(range(1, sum(sizes) + 1))


def test_document_rows_are_shuffled_by_the_seed() -> None:
    view = documents([5] * 50)

    def firsts(seed: int | None, epoch: int) -> list[int]:
        batches = DocumentBatches(view, 8, 32, seed)
        found = [batches.batch(epoch, index).targets[:, 0] for index in range(batches.num_batches)]
        return torch.cat(found).tolist()

    assert firsts(None, 0) == firsts(None, 1) == sorted(firsts(0, 0)) == sorted(firsts(0, 1))
    assert len({tuple(firsts(*place)) for place in ((None, 0), (0, 0), (0, 1))}) == 3


@settings(deadline=None, max_examples=60)
@given(
    stretches=st.integers(1, 9),
    left=st.integers(0, 40),
    length=st.integers(1, 7),
    windows=st.integers(1, 5),
    batch=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_rows_read_on_for_n_windows_and_every_target_comes_once(
    stretches: int, left: int, length: int, windows: int, batch: int, epoch: int
) -> None:
    """Tokens are their own places, and the whole epoch is put together row by row."""
    stretch = windows * length
    left %= stretch
    batches = StretchBatches(np.arange(stretches * stretch + left + 1), batch, length, windows, 3)
    rows: list[list[int]] = []
    read: list[list[int]] = []
    for index in range(batches.num_batches):
        given_ = batches.batch(epoch, index)
        assert given_.attention_mask is None
        assert given_.fresh == (index % windows == 0)
        tokens = rows_of(given_).tolist()
        if given_.fresh:
            rows = [[row[0]] for row in tokens]
            read += rows
        for row, more in zip(rows, tokens, strict=True):
            assert more[0] == row[-1], "a window begins with the last target of the one before"
            row += more[1:]
    for row in read:
        assert row == list(range(row[0], row[0] + stretch + 1))
    firsts = sorted(row[0] for row in read)
    assert firsts == list(range(firsts[0], firsts[0] + stretches * stretch, stretch))
    assert 0 <= firsts[0] <= left


def test_stretches_are_seekable_and_shuffled_by_the_seed_and_the_epoch() -> None:
    def firsts(seed: int, epoch: int, order: int = 1) -> list[int]:
        batches = StretchBatches(np.arange(50 * 12 + 8), 4, 4, 3, seed)
        indices = list(range(batches.num_batches))[::order]
        found = {index: batches.batch(epoch, index).inputs[:, 0].tolist() for index in indices}
        return [first for index in sorted(found) for first in found[index]]

    assert firsts(0, 1) == firsts(0, 1, order=-1)
    epochs = {tuple(firsts(seed, epoch)) for seed in (0, 1) for epoch in range(4)}
    assert len(epochs) == 8
    assert len({min(each) for each in epochs}) > 1, "the bounds of stretches move from epoch to epoch"
