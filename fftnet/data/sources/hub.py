"""Hugging Face datasets, from the hub or from a disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fftnet.data.errors import DataError, first_line, import_extra
from fftnet.data.sources.base import Advance, SourceFile
from fftnet.data.sources.tables import Row, Table

PREFIX = "hf:"
LOADERS = {".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""Suffixes of local files, and the names of their loaders in Hugging Face datasets."""


class HuggingFace(Table):
    """``hf:NAME[@REVISION][,CONFIGURATION[,SPLIT]]``; this name alone identifies the cached tokens."""

    label = f"{PREFIX}NAME of a Hugging Face dataset"

    def resolve(self, word: str) -> list[SourceFile]:
        """Return the dataset, with a path if it is a single file."""
        path = Path(word.removeprefix(PREFIX))
        return [SourceFile(word, path if path.is_file() else None, self)]

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """Yield the rows as they arrive."""
        user = f"{file.name} is a Hugging Face dataset, which"
        datasets = import_extra("datasets", user, "corpora")
        name, *rest = file.name.removeprefix(PREFIX).split(",")
        config, split = [*rest, "", ""][:2]
        name, _, revision = name.partition("@")
        try:
            if file.path is not None:
                suffix = next((s.lower() for s in reversed(file.path.suffixes) if s.lower() in LOADERS), "")
                kind = LOADERS.get(suffix, "text")
                found = datasets.load_dataset(kind, data_files=str(file.path), split="train", streaming=True)
            elif (Path(name) / "dataset_info.json").is_file():
                found = datasets.load_from_disk(name)
            else:
                found = datasets.load_dataset(
                    name, config or None, split=split or "train", revision=revision or None, streaming=True
                )
            # The library numbers the classes of a column; rows here hold their names.
            features = (found.features or {}).items()
            classes = {column: kind for column, kind in features if isinstance(kind, datasets.ClassLabel)}
            for number, row in enumerate(found, start=1):
                names = {column: _class_name(kind, row[column]) for column, kind in classes.items()}
                yield Row(f"{file.name} row {number}", row | names)
        except DataError:
            raise
        # Loading runs code of many libraries with their own exceptions, over a network.
        except Exception as error:
            raise DataError(
                f"{file.name} could not be loaded ({first_line(error)}); a dataset is named "
                f"{PREFIX}NAME[@REVISION][,CONFIGURATION[,SPLIT]]"
            ) from error


def _class_name(kind: Any, number: int | None) -> str | None:
    """Return the name of a class; None for -1, the library's mark of a row without a label."""
    return None if number is None or number < 0 else kind.int2str(number)
