"""Labelled texts: read from tables, split class by class, truncated and put into batches."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fftnet.data.errors import DataError, listed
from fftnet.data.files import digest_items
from fftnet.data.permutation import EpochOrder
from fftnet.data.sources import read_rows, resolve
from fftnet.data.sources.tables import Row, missing_field, text_of, unicode_of
from fftnet.data.splits import TEST, TRAIN, VALID, read_chunks
from fftnet.data.tokens import id_dtype
from fftnet.data.windows import padded
from fftnet.protocols import Batch, TextEncoder

POOL = 8
"""Number of batches whose rows are sorted by length, so that rows of similar length share a batch."""

logger = logging.getLogger(__name__)


class LabelledTexts(NamedTuple):
    """Rows of a table, in their order."""

    names: list[str]
    """File and line of each row, for messages."""
    texts: list[str]
    labels: list[str]

    def take(self, index: np.ndarray) -> "LabelledTexts":
        """Return the rows with these indices."""
        names, texts, labels = ([column[n] for n in index.tolist()] for column in self)
        return LabelledTexts(names, texts, labels)


def read_text_rows(word: str, text_field: str) -> list[Row]:
    """Read the rows of tables with all their columns, or the lines of a ``.txt`` file as rows with a text."""
    lines = Path(word).suffix.lower() == ".txt"
    # All columns, because a prediction is shown next to the row that was given.
    rows = list(_lines(word, text_field) if lines else read_rows([word], ()))
    for row in rows:
        _text(row, text_field)
    if not rows:
        raise DataError(f"{word} has no rows")
    return rows


def read_labelled(words: Sequence[str], text_field: str, label_field: str) -> LabelledTexts:
    """Read all rows of the tables that ``words`` name."""
    rows = [
        (row.name, _text(row, text_field), label_of(row, label_field))
        for row in read_rows(words, [text_field, label_field])
    ]
    if not rows:
        raise DataError(f"{', '.join(words)} has no rows")
    names, texts, labels = (list(column) for column in zip(*rows, strict=True))
    return LabelledTexts(names, texts, labels)


def label_of(row: Row, label_field: str) -> str:
    """Return the label of a row as the name of its class; a boolean is true or false."""
    if label_field not in row.values:
        raise missing_field(row, "label", label_field)
    value = row.values[label_field]
    if value is None or value == "":
        raise DataError(f"{row.name} has an empty {label_field!r}: give it a label, or leave the row out")
    # A boolean is an int, too.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, str)):
        return unicode_of(row, str(value))
    raise DataError(f"{row.name} has the label {value!r}: labels are strings, integers or booleans")


def find_classes(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes, sorted as numbers if all of them are integers."""
    names = set(labels)
    if len(names) < 2:
        raise DataError(f"all rows have the label {min(names)!r}, and a classifier needs two classes")
    numbered = all(re.fullmatch(r"-?\d+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbered else (0, name)))


def class_indices(rows: LabelledTexts, class_names: Sequence[str]) -> np.ndarray:
    """Return the number of each row's class, int64."""
    known = {name: number for number, name in enumerate(class_names)}
    for name, label in zip(rows.names, rows.labels, strict=True):
        if label not in known:
            raise DataError(
                f"{name} has the label {label!r}, which no row of training has (they have "
                f"{listed(class_names)}): correct it or leave the row out"
            )
    return np.array([known[label] for label in rows.labels], dtype=np.int64)


def stratified_split(
    labels: Sequence[str], keys: Iterable[bytes], *, valid_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Assign each row to TRAIN, VALID or TEST, uint8 (rows,), by their fractions of every class.

    Every split gets a row of each class. A hash of a row's key, its content or a stable name, decides. Rows
    with equal keys share a split, and adding or removing rows moves no other row. The exception are very
    small classes: a split that would be empty gets the row with the nearest hash, which another row may
    replace later.
    """
    # Training needs a row of each class, and so does each split that has a fraction.
    needed = 1 + (valid_fraction > 0) + (test_fraction > 0)
    counts = Counter(labels)
    if needed * len(counts) > len(labels):
        raise DataError(
            f"{len(labels)} rows have {len(counts)} different labels, and each class needs {needed} rows at "
            "least, to train, to validate and to test: is that the field of the labels?"
        )
    rarest = min(counts, key=lambda name: (counts[name], name))
    if counts[rarest] < needed:
        raise DataError(
            f"too few rows have the label {rarest!r}: {counts[rarest]}, and {needed} are needed, to train, "
            "to validate and to test; add rows, leave it out, or name files of your own with valid_data and "
            "test_data"
        )
    # Rows whose place lies below the test fraction are the test split; the validation split follows.
    split = np.full(len(labels), TRAIN, dtype=np.uint8)
    place = _hash_places(keys, seed)
    _, class_of, sizes = np.unique(np.array(labels), return_inverse=True, return_counts=True)
    for rows in np.split(class_of.argsort(kind="stable"), sizes.cumsum()[:-1]):
        places, order = np.unique(place[rows], return_inverse=True)
        if len(places) < needed:
            # The class has fewer different rows than splits, so equal rows have to be divided.
            places = np.sort(place[rows])
            order = place[rows].argsort(kind="stable").argsort()
        # Number of different places below the fraction, at least 1, leaving one for each other split.
        tests = int(np.searchsorted(places, test_fraction))
        tests = min(max(tests, test_fraction > 0), len(places) - needed + (test_fraction > 0))
        held_out = int(np.searchsorted(places, test_fraction + valid_fraction))
        held_out = min(max(held_out, tests + (valid_fraction > 0)), len(places) - 1)
        split[rows[order < held_out]] = VALID
        split[rows[order < tests]] = TEST
    return split


def _hash_places(keys: Iterable[bytes], seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each key, spread evenly."""
    seeded = hashlib.blake2b(b"%d/" % seed, digest_size=8)
    digests = []
    for key in keys:
        each = seeded.copy()
        each.update(key)
        digests.append(each.digest())
    # 53 bits are what a float64 in [0, 1) can hold.
    return (np.frombuffer(b"".join(digests), "<u8") >> np.uint64(11)) * 2.0**-53


def digest_rows(*tables: LabelledTexts) -> str:
    """Return a digest of the texts and labels of all rows, in their order."""
    return digest_items(
        value.encode()
        for table in tables
        for row in zip(table.texts, table.labels, strict=True)
        for value in row
    )


def encode_texts(
    parts: Iterable[LabelledTexts], tokenizer: TextEncoder, max_length: int
) -> list[list[np.ndarray]]:
    """Return the first ``max_length`` ids of each text, part by part, and warn if some texts are cut."""
    encoded: list[list[np.ndarray]] = []
    cut = 0
    dtype = id_dtype(tokenizer)

    def encode(row: tuple[str, str]) -> np.ndarray:
        try:
            return tokenizer.encode_array(row[1])
        except ValueError as error:
            raise DataError(f"{row[0]}: {error}") from error

    with ThreadPoolExecutor() as pool:
        for part in parts:
            encoded.append([])
            pairs = zip(part.names, part.texts, strict=True)
            # In groups: the pool would hold the complete ids of all texts at once.
            while group := list(islice(pairs, 1024)):
                for ids in pool.map(encode, group):
                    cut += len(ids) > max_length
                    encoded[-1].append(ids[:max_length].astype(dtype))
    if cut:
        logger.warning(
            "%d of %d texts are longer than max_seq_length %d tokens and are cut: only the beginning counts",
            cut,
            sum(map(len, encoded)),
            max_length,
        )
    return encoded


class LabelledBatches:
    """Batches of labelled rows of ids, each row once an epoch; without a seed in their order."""

    def __init__(
        self, rows: Sequence[np.ndarray], classes: np.ndarray, batch_size: int, seed: int | None
    ) -> None:
        self._rows = rows
        self._classes = classes
        self._lengths = np.array([len(row) for row in rows])
        self._batch_size = batch_size
        self._seed = seed
        self._order = EpochOrder(len(rows), 1, seed)
        self.num_batches = -(-len(rows) // batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return ids (B, T), padded to the longest row, and classes (B,)."""
        chosen = self._chosen(epoch, index)
        inputs, mask = pad_tokens([self._rows[n] for n in chosen.tolist()])
        return Batch(
            inputs=inputs,
            targets=torch.from_numpy(self._classes[chosen]),
            loss_mask=torch.ones(len(chosen), dtype=torch.bool),
            attention_mask=mask,
        )

    def _chosen(self, epoch: int, index: int) -> np.ndarray:
        size = self._batch_size
        if self._seed is None:
            return self._order.slice(epoch, index * size, size)[0]
        # Rows of POOL consecutive batches are sorted by length, which saves padding. The batches are then
        # shuffled, so that their lengths do not ascend.
        pool, place = divmod(index, POOL)
        rows, _ = self._order.slice(epoch, pool * POOL * size, POOL * size)
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        order = np.random.default_rng((self._seed, epoch, pool)).permutation(-(-len(rows) // size))
        return rows[order[place] * size :][:size]


def pad_tokens(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
    """Return int64 ids (B, T) of rows of any lengths, and the mask of the ids, None without padding."""
    tokens, present = padded(rows)
    return torch.from_numpy(tokens), None if present.all() else torch.from_numpy(present)


def _lines(word: str, text_field: str) -> Iterator[Row]:
    """Yield the lines of a text file as rows; a line break at the end begins no further line."""
    text = "".join(chunk.text for chunk in read_chunks(resolve([word]), text_field))
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        yield Row(f"{word} line {number}", {text_field: line.removesuffix("\r")})


def _text(row: Row, text_field: str) -> str:
    text = text_of(row, text_field)
    if not text.strip():
        raise DataError(f"{row.name} has an empty text: leave the row out")
    return text
