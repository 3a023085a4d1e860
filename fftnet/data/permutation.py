"""Pseudo-random numbers and orders that are functions of their index, so that any place can be sought."""

import numpy as np

MAX_SHUFFLED = 2**24
"""Largest number of items whose shuffled order is held in memory; a longer order is computed on demand."""
GOLDEN = 0x9E3779B97F4A7C15


class EpochOrder:
    """The numbers below ``count`` in the order of each epoch, and its shift; ascending without a seed."""

    def __init__(self, count: int, shifts: int, seed: int | None) -> None:
        self.shuffled = seed is not None
        self._count = count
        self._shifts = shifts
        self._seed = seed
        self._held: tuple[int, np.ndarray, int] | None = None

    def slice(self, epoch: int, first: int, size: int) -> tuple[np.ndarray, int]:
        """Return the numbers, int64, at up to ``size`` places from ``first`` on, and the shift."""
        places = np.arange(first, min(first + size, self._count))
        if self._seed is None:
            return places, 0
        if self._count > MAX_SHUFFLED:
            # A stored order would take 8 bytes an item, more than 128 MB.
            shift = int(np.random.default_rng((self._seed, epoch)).integers(self._shifts))
            return permute_indices(places, self._count, self._seed * GOLDEN + epoch), shift
        if self._held is None or self._held[0] != epoch:
            # One order is held, that of the current epoch: batches of an epoch come one after the other.
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(self._count)
            self._held = epoch, order, int(rng.integers(self._shifts))
        return self._held[1][places], self._held[2]


def permute_indices(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """Return the images, int64, of these places under a pseudo-random permutation below ``count``."""
    # A Feistel network permutes the next power of four. What falls outside is permuted again until it is
    # inside (cycle walking), which keeps the map one-to-one and needs no table.
    half = np.uint64(max((count - 1).bit_length() + 1, 2) // 2)
    low = np.uint64(2 ** int(half) - 1)
    x = places.astype(np.uint64)
    outside = np.ones(len(places), dtype=bool)
    while outside.any():
        left = x[outside] >> half
        right = x[outside] & low
        for turn in range(6):
            left, right = right, left ^ hash64(right, key + turn * 0xD1B54A32D192ED03) & low
        x[outside] = left << half | right
        outside = x >= count
    return x.astype(np.int64)


def hash64(x: np.ndarray, key: int) -> np.ndarray:
    """Return 64 well-spread bits, uint64, for every number (uint64) under a key (SplitMix64)."""
    seed = np.random.SeedSequence(key % 2**128).generate_state(1, np.uint64)[0]
    z = (x + np.uint64(1)) * np.uint64(GOLDEN) ^ seed
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)
