"""Windows: seekable in any order, none lost, none across two documents when asked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fftnet.data import windows
from fftnet.data.windows import DocumentBatches, Passages, WindowBatches, deal, scatter


def passages(sizes: list[int]) -> Passages:
    """Documents whose tokens are 1, 2, 3, ... throughout, each ended by a 0."""
    tokens, ends, count = [0], [], 0
    for size in sizes:
        tokens += [*range(count + 1, count + size + 1), 0]
        count += size
        ends.append(2 * len(tokens) + 1)
    return Passages(np.array(tokens), np.array(ends, np.uint64), np.ones(len(sizes), dtype=bool))


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 3000), key=st.integers(0, 2**70))
def test_scatter_is_a_permutation(count: int, key: int) -> None:
    places = scatter(np.arange(count), count, key)
    assert np.sort(places).tolist() == list(range(count))
    assert scatter(np.arange(count)[-3:], count, key).tolist() == places[-3:].tolist()


def test_scatter_is_spread_evenly_and_depends_on_its_key() -> None:
    count = 10_000
    places = scatter(np.arange(count), count, 1)
    assert abs(np.corrcoef(places, np.arange(count))[0, 1]) < 0.04
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.04
    assert (places == scatter(np.arange(count), count, 2)).mean() < 0.002
    far = scatter(np.arange(10**12 - 1000, 10**12), 10**12, 3)
    assert len(set(far.tolist())) == 1000
    assert 0 <= far.min() < 10**10
    assert 0.99 * 10**12 < far.max() < 10**12


def test_a_huge_shuffle_holds_no_order_and_keeps_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_SHUFFLED", 10)
    batches = WindowBatches(np.arange(1001), 8, 10, 3)
    for epoch in range(2):
        rows = torch.cat([batches.batch(epoch, index) for index in range(batches.num_batches)])
        assert sorted((rows[:, 0] // 10).tolist()) == list(range(100))
        assert rows[:, 0].tolist() != sorted(rows[:, 0].tolist())
    assert batches.batch(0, 2).tolist() != batches.batch(1, 2).tolist()


def test_a_batch_depends_on_epoch_and_index_alone(tmp_path: Path) -> None:
    np.arange(5001, dtype=np.uint16).tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint16, "r")
    wanted = [(epoch, index) for epoch in (0, 1, 2) for index in range(5)]
    forward, fresh = WindowBatches(mapped, 4, 16, 7), {}
    for place in wanted:
        fresh[place] = WindowBatches(np.arange(5001), 4, 16, 7).batch(*place).tolist()
    assert {place: forward.batch(*place).tolist() for place in wanted} == fresh
    assert {place: forward.batch(*place).tolist() for place in reversed(wanted)} == fresh


def test_the_order_of_small_corpora_is_the_one_of_before() -> None:
    batches = WindowBatches(np.arange(205), 4, 20, 5)
    rng = np.random.default_rng((5, 2))
    starts = rng.permutation(10)[4:8] * 20 + rng.integers(20)
    assert batches.batch(2, 1)[:, 0].tolist() == np.minimum(starts, 184).tolist()


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
    batches = DocumentBatches(passages(sizes), batch, length, seed)
    targets: list[int] = []
    for index in range(batches.num_batches):
        rows = batches.batch(4, index)
        assert (rows >= 0).sum(dim=1).max() == rows.shape[1] <= length + 1
        for row in rows.tolist():
            kept = [token for token in row if token >= 0]
            assert row == kept + [-1] * (len(row) - len(kept))
            assert 0 not in kept[1:-1]
            targets += kept[1:]
    assert sorted(targets) == [0] * len(sizes) + list(range(1, sum(sizes) + 1))


def test_document_rows_are_shuffled_by_the_seed() -> None:
    given = passages([5] * 50)
    firsts = [
        torch.cat([batches.batch(epoch, index)[:, 1] for index in range(batches.num_batches)]).tolist()
        for batches in (DocumentBatches(given, 8, 32, 0), DocumentBatches(given, 8, 32, None))
        for epoch in (0, 1)
    ]
    assert firsts[2] == firsts[3] == sorted(firsts[0]) == sorted(firsts[1])
    assert len({tuple(first) for first in firsts}) == 3


def test_shares_do_not_depend_on_where_the_dealing_starts() -> None:
    splits = deal(5000, 0.1, 0.2, 3)
    assert [abs(float((splits == n).mean()) - share) < 0.02 for n, share in enumerate((0.7, 0.2, 0.1))] == [
        True
    ] * 3
    assert deal(10, 0.1, 0.2, 3, first=777).tolist() == splits[777:787].tolist()
    assert (splits == deal(5000, 0.1, 0.2, 4)).mean() < 0.7
