"""Generators of the small tasks: state tracking, and mechanistic architecture design (arXiv 2403.17844).

Every function returns ids (B, T) and targets (B, T), both int64, ``IGNORED`` where nothing is asked. A target
stands at the token after which its answer is read. Rows are drawn for every batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from experiments.training import IGNORED

Generator = np.random.Generator
Rows = tuple[np.ndarray, np.ndarray]

MODULUS = 5
OPERATORS = 3
"""Number of operators (plus, minus, times), whose tokens follow those of the digits."""
PERMUTATIONS = np.array(list(permutations(range(3))))
"""Elements of S3, (6, 3)."""
PRODUCT = np.array(
    [
        [PERMUTATIONS.tolist().index(second[first].tolist()) for second in PERMUTATIONS]
        for first in PERMUTATIONS
    ]
)
"""Index of the element "first, then second", (6, 6)."""

KEYS = 8
"""Key tokens of the recall tasks, 0 to 7. As many value tokens follow them."""
LONGEST = 3
"""Largest number of tokens of a fuzzy key or value."""
NOISE = 16
"""Noise tokens, which follow keys and values."""
NOISE_SHARE = 0.2
"""Share of noise tokens in a row."""
COPIED = 16
"""Tokens that are copied, and the number of different ones."""
BLANK = 16
MARK = 17
"""Token that asks for the copies, or for the compressed row."""
MEMORIZED = 128
"""Keys of the memorization task, 0 to 127. As many values follow them."""
ASK = 2 * MEMORIZED
"""Token at which a memorized value is asked for."""


@dataclass(frozen=True)
class TrackingTask:
    """A task of state tracking."""

    draw: Callable[[Generator, np.ndarray], Rows]
    """Function of the generator and the lengths (B,); rows are as long as the longest."""
    vocab_size: int
    guess: float
    """Accuracy of guessing."""


@dataclass(frozen=True)
class MadTask:
    """A task of mechanistic architecture design."""

    draw: Callable[[Generator, int, int], Rows]
    """Function of the generator, rows B and tokens T."""
    vocab_size: int
    tokens: int
    """Published length T at the lowest difficulty."""


def parity(generator: Generator, lengths: np.ndarray) -> Rows:
    """Draw bits; every one asks for the parity so far."""
    bits_BT = generator.integers(0, 2, (len(lengths), lengths.max()))
    return bits_BT, _within(bits_BT.cumsum(axis=1) % 2, lengths)


def modular_arithmetic(generator: Generator, lengths: np.ndarray) -> Rows:
    """Draw digits below 5 with plus, minus or times between them; every token asks for the value modulo 5.

    Times binds closer than plus and minus; there are no brackets. An operator asks for the value before it.
    """
    ids_BT = generator.integers(0, MODULUS, (len(lengths), lengths.max()))
    # Digits at even places, operators at odd ones.
    ids_BT[:, 1::2] = generator.integers(MODULUS, MODULUS + OPERATORS, ids_BT[:, 1::2].shape)
    values_BT = np.empty_like(ids_BT)
    # The sum of all finished terms, and the product that is not finished yet.
    total_B, term_B = np.zeros(len(lengths), dtype=np.int64), ids_BT[:, 0]
    for at in range(ids_BT.shape[1]):
        if at and at % 2 == 0:
            operator_B, digit_B = ids_BT[:, at - 1] - MODULUS, ids_BT[:, at]
            times_B = operator_B == 2
            total_B = np.where(times_B, total_B, total_B + term_B)
            signed_B = np.where(operator_B == 1, -digit_B, digit_B)
            term_B = np.where(times_B, term_B * digit_B, signed_B) % MODULUS
        values_BT[:, at] = (total_B + term_B) % MODULUS
    return ids_BT, _within(values_BT, lengths)


def s3(generator: Generator, lengths: np.ndarray) -> Rows:
    """Draw elements of S3; every one asks for the product so far."""
    ids_BT = generator.integers(0, len(PERMUTATIONS), (len(lengths), lengths.max()))
    targets_BT = ids_BT.copy()
    for at in range(1, ids_BT.shape[1]):
        targets_BT[:, at] = PRODUCT[targets_BT[:, at - 1], ids_BT[:, at]]
    return ids_BT, _within(targets_BT, lengths)


def _within(values_BT: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Keep the values of each row's tokens, ``IGNORED`` behind its end."""
    return np.where(np.arange(values_BT.shape[1]) < lengths[:, None], values_BT, IGNORED)


TRACKING_TASKS: dict[str, TrackingTask] = {
    "parity": TrackingTask(parity, 2, 1 / 2),
    "modular arithmetic": TrackingTask(modular_arithmetic, MODULUS + OPERATORS, 1 / MODULUS),
    "S3": TrackingTask(s3, len(PERMUTATIONS), 1 / len(PERMUTATIONS)),
}


def recall(generator: Generator, rows: int, tokens: int) -> Rows:
    """Draw pairs of key and value; a key that was there before asks for its value."""
    return _pairs(generator, rows, tokens, 0)


def noisy_recall(generator: Generator, rows: int, tokens: int) -> Rows:
    """Draw pairs as ``recall`` does, with noise tokens anywhere between them."""
    return _pairs(generator, rows, tokens, round(NOISE_SHARE * tokens / 2) * 2)


def _pairs(generator: Generator, rows: int, tokens: int, noise: int) -> Rows:
    pairs = (tokens - noise) // 2
    # Each row has its own map from keys to values.
    map_BK = generator.integers(KEYS, 2 * KEYS, (rows, KEYS))
    key_BP = generator.integers(0, KEYS, (rows, pairs))
    value_BP = np.take_along_axis(map_BK, key_BP, axis=1)
    # Pairs and single noise tokens in any order.
    one_row = np.arange(pairs + noise) < pairs
    is_pair = generator.permuted(np.broadcast_to(one_row, (rows, pairs + noise)), axis=1)
    # A pair takes two places, a noise token one.
    length = np.where(is_pair, 2, 1)
    place_BP = (length.cumsum(axis=1) - length)[is_pair].reshape(rows, pairs)
    ids_BT = generator.integers(2 * KEYS, 2 * KEYS + NOISE, (rows, tokens))
    targets_BT = np.full((rows, tokens), IGNORED)
    np.put_along_axis(ids_BT, place_BP, key_BP, axis=1)
    np.put_along_axis(ids_BT, place_BP + 1, value_BP, axis=1)
    # Only a key that was there before has an answer.
    answers_BP = np.where(_seen(key_BP), value_BP, IGNORED)
    np.put_along_axis(targets_BT, place_BP, answers_BP, axis=1)
    return ids_BT, targets_BT


def _seen(key_BP: np.ndarray) -> np.ndarray:
    """Return True for each key that was there before, (B, P)."""
    same_BPK = key_BP[..., None] == np.arange(KEYS)
    before_BPK = (same_BPK.cumsum(axis=1) - same_BPK) > 0
    return (same_BPK & before_BPK).any(axis=2)


def _words() -> tuple[np.ndarray, np.ndarray]:
    """Return all words of one to three of the eight tokens, (N, 3) padded with -1, and their lengths (N,)."""
    words = []
    for length in range(1, LONGEST + 1):
        found = np.indices((KEYS,) * length).reshape(length, -1).T
        words.append(np.pad(found, ((0, 0), (0, LONGEST - length)), constant_values=-1))
    all_words = np.concatenate(words)
    return all_words, (all_words >= 0).sum(axis=1)


WORDS, LENGTHS = _words()


def fuzzy_recall(generator: Generator, rows: int, tokens: int) -> Rows:
    """Draw recall of eight words by eight words of one to three tokens; each length is as likely.

    From the last token of a key that was there before, all tokens of its value are asked for.
    """
    log_weight = -np.log((LENGTHS[:, None] == LENGTHS).sum(axis=1))
    # Gumbel trick: the largest of log-weights with Gumbel noise are a draw without replacement.
    noise_BN = generator.gumbel(size=(2, rows, len(WORDS)))
    key_words_BK, value_words_BK = (-(log_weight + noise_BN)).argsort(axis=2)[..., :KEYS]
    key_BP = generator.integers(0, KEYS, (rows, tokens // 2))
    key_words = np.take_along_axis(key_words_BK, key_BP, axis=1)
    value_words = np.take_along_axis(value_words_BK, key_BP, axis=1)
    values = WORDS[value_words]
    slots = np.concatenate([WORDS[key_words], np.where(values < 0, -1, values + KEYS)], axis=2)
    at = np.arange(LONGEST)
    asked_key = at == LENGTHS[key_words][..., None] - 1
    asked_value = at < LENGTHS[value_words][..., None] - 1
    asked = np.concatenate([asked_key, asked_value], axis=2) & _seen(key_BP)[..., None]
    # Drop the padding of words and keep the order of the rest. Every pair has at least two tokens.
    order = (slots.reshape(rows, -1) < 0).argsort(axis=1, kind="stable")[:, : tokens + 1]
    ids = np.take_along_axis(slots.reshape(rows, -1), order, axis=1)
    asked_BT = np.take_along_axis(asked.reshape(rows, -1), order, axis=1)[:, :tokens]
    # The token behind the row may be missing. Then the last token asks for nothing.
    following_BT = ids[:, 1:] if ids.shape[1] > tokens else np.pad(ids[:, 1:], ((0, 0), (0, 1)))
    following_BT = np.where(following_BT < 0, IGNORED, following_BT)
    return ids[:, :tokens], np.where(asked_BT, following_BT, IGNORED)


def selective_copying(generator: Generator, rows: int, tokens: int) -> Rows:
    """Draw sixteen tokens among blanks, then a mark, after which they are asked for in their order."""
    body = tokens - COPIED
    copied_BC = generator.integers(0, COPIED, (rows, COPIED))
    # Sixteen distinct places in increasing order.
    place_BC = np.sort(generator.random((rows, body)).argsort(axis=1)[:, :COPIED], axis=1)
    ids_BT = np.full((rows, tokens), BLANK)
    np.put_along_axis(ids_BT, place_BC, copied_BC, axis=1)
    ids_BT[:, body] = MARK
    targets_BT = np.full((rows, tokens), IGNORED)
    targets_BT[:, body:] = copied_BC
    return ids_BT, targets_BT


def compression(generator: Generator, rows: int, tokens: int) -> Rows:
    """Draw tokens, then a mark, from whose hidden state alone all of them are asked for."""
    ids_BT = generator.integers(0, COPIED, (rows, tokens))
    ids_BT[:, -1] = MARK
    targets_BT = ids_BT.copy()
    targets_BT[:, -1] = IGNORED
    return ids_BT, targets_BT


MEMORIZED_VALUES = np.random.default_rng(0).integers(MEMORIZED, 2 * MEMORIZED, MEMORIZED)
"""Value of each key, the same in all rows of all runs."""


def memorization(generator: Generator, rows: int, tokens: int) -> Rows:
    """Draw keys, each followed by a token that asks for its value. No value is ever read."""
    key_BP = generator.integers(0, MEMORIZED, (rows, tokens // 2))
    ids_BT = np.full((rows, tokens), ASK)
    ids_BT[:, ::2] = key_BP
    targets_BT = np.full((rows, tokens), IGNORED)
    targets_BT[:, 1::2] = MEMORIZED_VALUES[key_BP]
    return ids_BT, targets_BT


MAD_TASKS: dict[str, MadTask] = {
    "in-context recall": MadTask(recall, 2 * KEYS, 128),
    "fuzzy recall": MadTask(fuzzy_recall, 2 * KEYS, 128),
    "noisy recall": MadTask(noisy_recall, 2 * KEYS + NOISE, 128),
    "selective copying": MadTask(selective_copying, MARK + 1, 256),
    "compression": MadTask(compression, MARK + 1, 32),
    "memorization": MadTask(memorization, ASK + 1, 32),
}
