"""The six tasks of mechanistic architecture design (arXiv 2403.17844), written anew after their description.

Every function draws rows of ids (B, T) and targets (B, T), both int64, ``IGNORED`` where nothing is asked. A
target stands where the token before its answer is read. Rows are drawn afresh for every batch; published are
fixed sets.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.training import IGNORED

Generator = np.random.Generator
Rows = tuple[np.ndarray, np.ndarray]
KEYS = 8
"""Key tokens of the recall tasks, 0 to 7; as many values behind them."""
LONGEST = 3
"""Tokens of a fuzzy key or value at most."""
NOISE = 16
"""Tokens that mean nothing, behind keys and values."""
NOISE_SHARE = 0.2
COPIED = 16
"""Tokens that are copied, each one of as many."""
BLANK = 16
MARK = 17
"""The token that asks: for the copies, or for the compressed row."""
FACTS = 128
"""Keys of the memorization task, 0 to 127; values behind them."""
ASK = 2 * FACTS
"""The token in whose place the value of a fact must be said."""


@dataclass(frozen=True)
class MadTask:
    """One task."""

    draw: Callable[[Generator, int, int], Rows]
    """Generator, rows B and tokens T to a batch."""
    vocab_size: int
    tokens: int
    """T, as published at the lowest difficulty."""


def recall(generator: Generator, rows: int, tokens: int) -> Rows:
    """Pairs of key and value, the map drawn for each row; asked: the value of a key that was there before."""
    return _pairs(generator, rows, tokens, 0)


def noisy_recall(generator: Generator, rows: int, tokens: int) -> Rows:
    """The same, with tokens of another vocabulary anywhere between the pairs."""
    return _pairs(generator, rows, tokens, round(NOISE_SHARE * tokens / 2) * 2)


def _pairs(generator: Generator, rows: int, tokens: int, noise: int) -> Rows:
    pairs = (tokens - noise) // 2
    map_BK = generator.integers(KEYS, 2 * KEYS, (rows, KEYS))
    key_BP = generator.integers(0, KEYS, (rows, pairs))
    value_BP = np.take_along_axis(map_BK, key_BP, axis=1)
    # Pairs and single tokens of noise in any order.
    one_row = np.arange(pairs + noise) < pairs
    is_pair = generator.permuted(np.broadcast_to(one_row, (rows, pairs + noise)), axis=1)
    length = np.where(is_pair, 2, 1)
    place_BP = (length.cumsum(axis=1) - length)[is_pair].reshape(rows, pairs)
    ids_BT = generator.integers(2 * KEYS, 2 * KEYS + NOISE, (rows, tokens))
    targets_BT = np.full((rows, tokens), IGNORED)
    np.put_along_axis(ids_BT, place_BP, key_BP, axis=1)
    np.put_along_axis(ids_BT, place_BP + 1, value_BP, axis=1)
    answers_BP = np.where(_seen(key_BP, KEYS), value_BP, IGNORED)
    np.put_along_axis(targets_BT, place_BP, answers_BP, axis=1)
    return ids_BT, targets_BT


def _seen(key_BP: np.ndarray, keys: int) -> np.ndarray:
    """Whether a key has been there before, (B, P)."""
    same_BPK = key_BP[..., None] == np.arange(keys)
    before_BPK = (same_BPK.cumsum(axis=1) - same_BPK) > 0
    return (same_BPK & before_BPK).any(axis=2)


def _words() -> tuple[np.ndarray, np.ndarray]:
    """All words of one to three of the eight tokens, (N, 3) filled up with -1, and their lengths (N,)."""
    words = []
    for length in range(1, LONGEST + 1):
        found = np.indices((KEYS,) * length).reshape(length, -1).T
        words.append(np.pad(found, ((0, 0), (0, LONGEST - length)), constant_values=-1))
    all_words = np.concatenate(words)
    return all_words, (all_words >= 0).sum(axis=1)


WORDS, LENGTHS = _words()


def fuzzy_recall(generator: Generator, rows: int, tokens: int) -> Rows:
    """Recall of eight words by eight words, of one to three tokens each, every length as likely.

    Asked: all tokens of the value of a key that was there before, from the key's last token on.
    """
    log_weight = -np.log((LENGTHS[:, None] == LENGTHS).sum(axis=1))
    # The largest of log-weights with Gumbel noise are a draw without replacement, in its order.
    noise_BN = generator.gumbel(size=(2, rows, len(WORDS)))
    key_words_BK, value_words_BK = (-(log_weight + noise_BN)).argsort(axis=2)[..., :KEYS]
    pairs = tokens // 2
    key_BP = generator.integers(0, KEYS, (rows, pairs))
    key_words = np.take_along_axis(key_words_BK, key_BP, axis=1)
    value_words = np.take_along_axis(value_words_BK, key_BP, axis=1)
    values = WORDS[value_words]
    slots = np.concatenate([WORDS[key_words], np.where(values < 0, -1, values + KEYS)], axis=2)
    at = np.arange(LONGEST)
    asked_key = at == LENGTHS[key_words][..., None] - 1
    asked_value = at < LENGTHS[value_words][..., None] - 1
    asked = np.concatenate([asked_key, asked_value], axis=2) & _seen(key_BP, KEYS)[..., None]
    # Left out what fills words up, the rest in its order; every pair has at least two tokens.
    order = (slots.reshape(rows, -1) < 0).argsort(axis=1, kind="stable")[:, : tokens + 1]
    ids = np.take_along_axis(slots.reshape(rows, -1), order, axis=1)
    asked_BT = np.take_along_axis(asked.reshape(rows, -1), order, axis=1)[:, :tokens]
    # One token more than asked for need not be there: then nothing is asked at the last.
    following_BT = ids[:, 1:] if ids.shape[1] > tokens else np.pad(ids[:, 1:], ((0, 0), (0, 1)))
    following_BT = np.where(following_BT < 0, IGNORED, following_BT)
    return ids[:, :tokens], np.where(asked_BT, following_BT, IGNORED)


def selective_copying(generator: Generator, rows: int, tokens: int) -> Rows:
    """Sixteen tokens among blanks, then a mark: from there on they are asked for in their order."""
    body = tokens - COPIED
    copied_BC = generator.integers(0, COPIED, (rows, COPIED))
    place_BC = np.sort(generator.random((rows, body)).argsort(axis=1)[:, :COPIED], axis=1)
    ids_BT = np.full((rows, tokens), BLANK)
    np.put_along_axis(ids_BT, place_BC, copied_BC, axis=1)
    ids_BT[:, body] = MARK
    targets_BT = np.full((rows, tokens), IGNORED)
    targets_BT[:, body:] = copied_BC
    return ids_BT, targets_BT


def compression(generator: Generator, rows: int, tokens: int) -> Rows:
    """Any tokens, then a mark, from whose hidden state alone all of them are asked for, each at its place."""
    ids_BT = generator.integers(0, COPIED, (rows, tokens))
    ids_BT[:, -1] = MARK
    targets_BT = ids_BT.copy()
    targets_BT[:, -1] = IGNORED
    return ids_BT, targets_BT


FACT_VALUES = np.random.default_rng(0).integers(FACTS, 2 * FACTS, FACTS)
"""Value of each key: the same in all rows of all runs."""


def memorization(generator: Generator, rows: int, tokens: int) -> Rows:
    """Keys, each with an empty place behind it, at which its value is asked for; no value is ever read."""
    key_BP = generator.integers(0, FACTS, (rows, tokens // 2))
    ids_BT = np.full((rows, tokens), ASK)
    ids_BT[:, ::2] = key_BP
    targets_BT = np.full((rows, tokens), IGNORED)
    targets_BT[:, 1::2] = FACT_VALUES[key_BP]
    return ids_BT, targets_BT


MAD_TASKS: dict[str, MadTask] = {
    "in-context recall": MadTask(recall, 2 * KEYS, 128),
    "fuzzy recall": MadTask(fuzzy_recall, 2 * KEYS, 128),
    "noisy recall": MadTask(noisy_recall, 2 * KEYS + NOISE, 128),
    "selective copying": MadTask(selective_copying, MARK + 1, 256),
    "compression": MadTask(compression, MARK + 1, 32),
    "memorization": MadTask(memorization, ASK + 1, 32),
}
