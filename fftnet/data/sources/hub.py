"""Hugging Face datasets, from their hub or from a disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fftnet.data.errors import DataError, import_extra
from fftnet.data.sources.base import Advance, Row, SourceFile, Table, first_line

PREFIX = "hf:"
LOADERS = {".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""How Hugging Face datasets calls the kinds of local files."""


class HuggingFace(Table):
    """``hf:NAME[@REVISION][,CONFIGURATION[,SPLIT]]``; what is tokenized is known by this name alone."""

    label = f"{PREFIX}NAME of a Hugging Face dataset"

    def resolve(self, word: str) -> list[SourceFile]:
        """The dataset; its path is known where it is a single file."""
        path = Path(word.removeprefix(PREFIX))
        return [SourceFile(word, path if path.is_file() else None, self)]

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """The rows, as they arrive."""
        for number, values in enumerate(_rows(file), start=1):
            yield Row(f"{file.name} row {number}", values)


def _rows(file: SourceFile) -> Iterator[Any]:
    user = f"{file.name} is a Hugging Face dataset, which"
    datasets = import_extra("datasets", user, "corpora")
    name, *rest = file.name.removeprefix(PREFIX).split(",")
    config, split = [*rest, "", ""][:2]
    name, _, revision = name.partition("@")
    try:
        if file.path is not None:
            suffix = next((s.lower() for s in reversed(file.path.suffixes) if s.lower() in LOADERS), "")
            kind = LOADERS.get(suffix, "text")
            yield from datasets.load_dataset(kind, data_files=str(file.path), split="train", streaming=True)
        elif (Path(name) / "dataset_info.json").is_file():
            yield from datasets.load_from_disk(name)
        else:
            yield from datasets.load_dataset(
                name, config or None, split=split or "train", revision=revision or None, streaming=True
            )
    except DataError:
        raise
    # Loading runs code of many libraries, each with exceptions of its own, over a network.
    except Exception as error:
        raise DataError(
            f"{file.name} could not be loaded ({first_line(error)}); a dataset is named "
            f"{PREFIX}NAME[@REVISION][,CONFIGURATION[,SPLIT]]"
        ) from error
