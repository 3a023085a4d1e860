"""Which labelled examples are held out: of every class the same part, by a seed."""

from collections.abc import Sequence

import numpy as np


def stratified(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Divide examples so that every part has of every class about the same fraction.

    A class with more examples than there are parts has one in each, whatever the fraction; one with fewer has
    its first in the last part, what remains.

    Args:
        labels: integers (N,).
        fractions: of each part that is held out, above 0 and below 1 together.
        seed: which examples; nothing else but the labels matters.

    Returns:
        The numbers of the examples in each part, int64 in rising order; behind the parts, what remains.
    """
    part_N = np.full(len(labels), len(fractions))
    for label in np.unique(labels).tolist():
        rows = np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label))
        first = 0
        for part, fraction in enumerate(fractions):
            wanted = max(round(len(rows) * fraction), 1)
            count = min(wanted, len(rows) - 1 - first)
            part_N[rows[first : first + count]] = part
            first += count
    return [np.flatnonzero(part_N == part) for part in range(len(fractions) + 1)]
