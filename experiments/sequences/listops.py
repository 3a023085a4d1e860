"""ListOps of Long Range Arena (arXiv 2011.04006): nested lists of digits under MIN, MAX, MED and SM.

The grammar, its probabilities and the bounds are the published ones: a node is an operator with probability
0.25 if its depth allows it, else a digit; an operator has two to ten arguments; expressions have more than
500 and fewer than 2,000 tokens. The samples are not the published ones, which came unseeded from one stream:
here each is a function of its split and its number. Tokens are those that the published task reads: no round
brackets, and a token for the closing bracket.
"""

from pathlib import Path

import numba
import numpy as np

from experiments.sequences.base import SPLITS, Rows, SequenceData, Sizes, generated

TOKENS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
"""Text of each id."""
MIN, MAX, MED, SUM, CLOSE = range(10, 15)
PUBLISHED = (96_000, 2_000, 2_000)
OPERATOR_SHARE = 0.25
"""Probability that a node is an operator, if its depth allows one."""
FEWEST_ARGUMENTS = 2
MOST_ARGUMENTS = 10
MOST_DEPTH = 10
"""Depth at which a node is a digit; the root has depth 1."""
SHORTEST = 500
LONGEST = 2_000
"""Bounds of the number of tokens, both excluded."""


@numba.njit(cache=True)
def _below(generator: np.random.Generator, bound: int) -> int:
    # The method ``integers`` takes seconds to compile.
    return int(generator.random() * bound)


@numba.njit(cache=True)
def _draw(generator: np.random.Generator, shortest: int, ids: np.ndarray) -> int:
    """Draw expressions until one has more tokens than ``shortest`` and fewer than fit into ``ids``.

    Returns:
        Its number of tokens, which stand at the start of ``ids``.
    """
    missing = np.zeros(MOST_DEPTH + 1, np.int64)
    while True:
        length = 0
        depth = 1
        while True:
            if depth < MOST_DEPTH and generator.random() < OPERATOR_SHARE:
                ids[length] = MIN + _below(generator, CLOSE - MIN)
                # Number of arguments that the operator at this depth still needs.
                missing[depth] = FEWEST_ARGUMENTS + _below(generator, MOST_ARGUMENTS - FEWEST_ARGUMENTS + 1)
                depth += 1
                length += 1
            else:
                ids[length] = _below(generator, MIN)
                length += 1
                while depth > 1 and length < len(ids):
                    missing[depth - 1] -= 1
                    if missing[depth - 1]:
                        break
                    ids[length] = CLOSE
                    length += 1
                    depth -= 1
            # An expression that does not fit is still open here, and is drawn again.
            if depth == 1 or length >= len(ids):
                break
        if depth == 1 and shortest < length < len(ids):
            return length


@numba.njit(cache=True)
def _value(ids: np.ndarray) -> int:
    """Return the value of an expression."""
    values = np.zeros(len(ids), np.int64)
    starts = np.zeros(MOST_DEPTH + 1, np.int64)
    operators = np.zeros(MOST_DEPTH + 1, np.int64)
    count = 0
    depth = 0
    for token in ids:
        if token < MIN:
            values[count] = token
            count += 1
        elif token < CLOSE:
            operators[depth] = token
            starts[depth] = count
            depth += 1
        else:
            depth -= 1
            # The arguments since the operator, sorted for minimum, maximum and median.
            arguments = np.sort(values[starts[depth] : count])
            middle = len(arguments) // 2
            if operators[depth] == MIN:
                result = arguments[0]
            elif operators[depth] == MAX:
                result = arguments[-1]
            elif operators[depth] == SUM:
                result = arguments.sum() % 10
            elif len(arguments) % 2:
                result = arguments[middle]
            else:
                # Median of an even number: the mean of the two in the middle, rounded down.
                result = (arguments[middle - 1] + arguments[middle]) // 2
            # The value replaces the arguments on the stack.
            values[starts[depth]] = result
            count = starts[depth] + 1
    return values[0]


def expressions(split: str, count: int, shortest: int = SHORTEST, longest: int = LONGEST) -> Rows:
    """Return the first expressions of a split, with their values as labels.

    Args:
        split: name in ``SPLITS``.
        count: number of expressions.
        shortest: excluded lower bound of the tokens.
        longest: excluded upper bound of the tokens.
    """
    seed = (0, SPLITS.index(split))
    ids = np.empty(count * longest, np.uint8)
    ends = np.empty(count, np.int64)
    labels = np.empty(count, np.int64)
    start = 0
    for index in range(count):
        space = ids[start : start + longest]
        # One generator for each sample, so that it depends on its split and number alone.
        length = _draw(np.random.default_rng((*seed, index)), shortest, space)
        labels[index] = _value(space[:length])
        start += length
        ends[index] = start
    return Rows(ids[:start].copy(), ends, labels)


def listops(
    cache: Path, sizes: Sizes | None = None, shortest: int = SHORTEST, longest: int = LONGEST
) -> SequenceData:
    """Return generated ListOps; published sizes are 96,000 training, 2,000 validation and 2,000 test rows.

    Of expressions with few tokens, the shortest occur repeatedly.

    Args:
        cache: folder of the generated file.
        sizes: rows of training, validation and test.
        shortest: excluded lower bound of the tokens.
        longest: excluded upper bound of the tokens.
    """
    counts = dict(zip(SPLITS, sizes or PUBLISHED, strict=True))
    path = cache / f"listops-{shortest}-{longest}-{'-'.join(map(str, counts.values()))}.safetensors"
    splits = generated(path, lambda split: expressions(split, counts[split], shortest, longest))
    return SequenceData(*splits, len(TOKENS), tuple("0123456789"))
