"""What is held out of labelled examples: of every class the same part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fftnet.data.stratified import stratified


def test_every_class_has_its_part_in_every_split() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    np.random.default_rng(0).shuffle(labels)
    parts = stratified(labels, [0.1, 0.2], seed=3)
    counts = [np.bincount(labels[part], minlength=3).tolist() for part in parts]
    assert counts == [[10, 4, 1], [20, 8, 2], [70, 28, 7]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 5), st.integers(0, 2))
def test_no_example_is_in_two_parts_and_none_is_lost(labels: list[int], seed: int, held_out: int) -> None:
    parts = stratified(np.array(labels), [0.05] * held_out, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    rest = np.array(labels)[parts[-1]]
    assert set(rest.tolist()) == set(labels)


@pytest.mark.parametrize(("count", "sizes"), [(1, [0, 0, 1]), (2, [1, 0, 1]), (3, [1, 1, 1])])
def test_a_small_class(count: int, sizes: list[int]) -> None:
    parts = stratified(np.zeros(count, dtype=np.int64), [0.05, 0.05], seed=0)
    assert [len(part) for part in parts] == sizes


def test_the_seed_decides_and_other_classes_do_not() -> None:
    labels = np.arange(60) % 2
    first = stratified(labels, [0.2], seed=0)[0].tolist()
    assert stratified(labels, [0.2], seed=0)[0].tolist() == first
    assert stratified(labels, [0.2], seed=1)[0].tolist() != first
    more = np.concatenate([labels, np.full(30, 7)])
    kept = [row for row in stratified(more, [0.2], seed=0)[0].tolist() if row < 60]
    assert kept == first
