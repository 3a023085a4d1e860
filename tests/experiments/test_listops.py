"""ListOps against an independent evaluator, and the cache of generated sets."""

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.results import ExperimentError
from experiments.sequences import SEQUENCES
from experiments.sequences.base import Rows, generated
from experiments.sequences.listops import TOKENS, expressions

SIZES = (60, 20, 20)
FUNCTIONS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def words(row: np.ndarray) -> list[str]:
    return [TOKENS[token] for token in row.tolist()]


def value(tokens: list[str], depth: int = 1) -> tuple[int, int]:
    """Remove the expression at the start of the tokens and return its value and depth."""
    token = tokens.pop(0)
    if token.isdigit():
        assert depth <= 10
        return int(token), depth
    arguments = []
    deepest = depth
    while tokens[0] != "]":
        argument, below = value(tokens, depth + 1)
        arguments.append(argument)
        deepest = max(deepest, below)
    tokens.pop(0)
    assert 2 <= len(arguments) <= 10
    return FUNCTIONS[token](arguments), deepest


@pytest.mark.parametrize(
    ("name", "shortest", "longest", "depth"),
    [("listops", 500, 2_000, 10), ("listops40", 5, 40, 4), ("listops500", 120, 500, 8)],
)
def test_every_label_is_the_value_of_its_expression(
    tmp_path: Path, name: str, shortest: int, longest: int, depth: int
) -> None:
    data = SEQUENCES[name](tmp_path, SIZES)
    assert (data.vocab_size, len(data.class_names)) == (15, 10)
    deepest = 0
    splits = (data.train, data.valid, data.test)
    for rows, count in zip(splits, SIZES, strict=True):
        assert len(rows) == count
        for index in range(count):
            tokens = words(rows.row(index))
            assert shortest < len(tokens) < longest
            result, below = value(tokens)
            assert tokens == []
            assert result == rows.labels[index]
            deepest = max(deepest, below)
    assert depth <= deepest <= 10
    if name == "listops":
        assert len({rows.row(index).tobytes() for rows in splits for index in range(len(rows))}) == sum(SIZES)


def test_short_expressions_have_all_operators_digits_and_counts() -> None:
    # Bounds of other sizes, so that every branch is met often; even and odd numbers of arguments.
    rows = expressions("train", 2_000, shortest=3, longest=40)
    tokens = [token for index in range(len(rows)) for token in words(rows.row(index))]
    assert set(tokens) == set(TOKENS)
    lengths = np.diff(rows.ends, prepend=0)
    assert (lengths.min(), lengths.max()) == (4, 39)
    for index in range(len(rows)):
        rest = words(rows.row(index))
        assert value(rest)[0] == rows.labels[index]
        assert rest == []
    # Every operator as likely as the others, within five standard deviations.
    counts = np.array([tokens.count(name) for name in FUNCTIONS])
    assert abs(counts / counts.sum() - 0.25).max() < 5 * (0.25 * 0.75 / counts.sum()) ** 0.5


def test_a_sample_depends_on_its_split_and_number_alone() -> None:
    few, many = expressions("test", 3), expressions("test", 5)
    for index in range(3):
        assert few.row(index).tolist() == many.row(index).tolist()
    assert few.labels.tolist() == many.labels[:3].tolist()
    assert expressions("train", 1).row(0).tolist() != few.row(0).tolist()


def test_a_set_is_made_once_and_then_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "set.safetensors"
    made = generated(path, lambda name: expressions(name, 4, shortest=20, longest=60))
    assert [file.name for file in path.parent.iterdir()] == ["set.safetensors"]

    def refuses(name: str) -> Rows:
        raise AssertionError(name)

    for first, second in zip(made, generated(path, refuses), strict=True):
        for field in ("ids", "ends", "labels"):
            assert np.array_equal(getattr(first, field), getattr(second, field))
            assert getattr(first, field).dtype == getattr(second, field).dtype
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ExperimentError, match=r"delete .* to generate it again"):
        generated(path, refuses)
