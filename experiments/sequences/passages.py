"""Pairs of passages from Shakespeare's works, byte by byte, which are from the same work or from two.

Long Range Arena asks of two scientific papers whether one cites the other (AAN), which is harder: do not
compare numbers. Both passages are one row with a separator between them.

Every work is cut into tenths. The fifth is validation, the eighth the test, the others training, so that no
byte is in two splits. Both passages of a pair of one work lie in one tenth, without an overlap.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import corpora
from experiments.results import ExperimentError
from experiments.sequences.base import SPLITS, Rows, SequenceData, Sizes, generated, same_length

SEPARATOR = 256
SIZES = (20_000, 2_000, 2_000)
TENTHS = {"train": (0, 1, 2, 3, 5, 6, 8, 9), "valid": (4,), "test": (7,)}
PASSAGE = 1_024
PASSAGES_OF_A_TENTH = 3
"""Passages that must fit into a tenth of a work; shorter works are left out."""


def pairs(works: Sequence[bytes], split: str, count: int, length: int = PASSAGE) -> Rows:
    """Return the first pairs of a split, every second one from the same work (class 1).

    Args:
        works: at least two texts of at least ten times ``PASSAGES_OF_A_TENTH`` passages.
        split: name in ``SPLITS``.
        count: number of pairs.
        length: bytes of a passage.

    Returns:
        Rows of twice the length and a separator, int32.
    """
    ids = np.full((count, 2 * length + 1), SEPARATOR, np.int32)
    labels = np.arange(count) % 2
    for index in range(count):
        # One generator for each pair, so that it depends on its split and number alone.
        generator = np.random.default_rng((SPLITS.index(split), index))
        # Two different works; a pair of one work uses the first of them.
        first, second = generator.choice(len(works), 2, replace=False).tolist()
        if labels[index]:
            second = first
        tenths = [_tenth(works[work], int(generator.choice(TENTHS[split]))) for work in (first, second)]
        if labels[index]:
            tenths[1] = tenths[0]
            # Two sorted starts, the second moved by a passage: they never overlap.
            free = len(tenths[0]) - 2 * length
            starts = np.sort(generator.integers(0, free + 1, 2)) + np.array([0, length])
            generator.shuffle(starts)
        else:
            starts = generator.integers(0, [len(tenth) - length + 1 for tenth in tenths])
        for place, tenth, start in zip((0, length + 1), tenths, starts.tolist(), strict=True):
            ids[index, place : place + length] = np.frombuffer(tenth[start : start + length], np.uint8)
    return same_length(ids, labels)


def _tenth(work: bytes, number: int) -> bytes:
    return work[number * len(work) // 10 : (number + 1) * len(work) // 10]


def retrieval(
    cache: Path, sizes: Sizes | None = None, corpus: str = "shakespeare", length: int = PASSAGE
) -> SequenceData:
    """Return pairs of passages, half of them from one work: 20,000 training, 2,000 validation and test rows.

    Args:
        cache: folder of the corpus, which is fetched if it is missing, and of the pairs.
        sizes: pairs of training, validation and test.
        corpus: name in ``experiments.corpora`` whose documents are the works.
        length: bytes of a passage.

    Raises:
        ExperimentError: if the corpus can't be fetched, or fewer than two of its works are long enough.
    """
    texts = corpora.documents(corpus, cache)
    works = [text.text for text in texts if len(text.text) >= 10 * PASSAGES_OF_A_TENTH * length]
    if len(works) < 2:
        raise ExperimentError(f"{corpus} has {len(works)} works long enough for passages of {length} bytes")
    counts = dict(zip(SPLITS, sizes or SIZES, strict=True))
    # The file name changes with the texts.
    mark = zlib.crc32(b"\0".join(works))
    path = cache / f"retrieval-{corpus}-{mark:08x}-{length}-{'-'.join(map(str, counts.values()))}.safetensors"
    splits = generated(path, lambda split: pairs(works, split, counts[split], length))
    return SequenceData(*splits, SEPARATOR + 1, ("two works", "one work"))
