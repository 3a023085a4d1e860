"""``fftnet predict``: flags for ``fftnet.prediction``."""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.prediction import BATCH, load_classifier, text_field
from fftnet.serialization import write_whole
from fftnet.training.memory import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What is classified, and where the answers go.

    Raises:
        ValueError: if there is no file to classify, no such format, or a field is out of range.
    """

    file: str | None = None
    """What is classified: a table with texts in rows or a .txt file with a text a line; an image, a folder of
    images, an .npz or IDX file. It may stand behind the checkpoint."""
    output: str | None = None
    """File for the answers, .jsonl or .csv, a row for each input (default: JSON lines to the terminal)."""
    text_field: str = "text"
    """Column that holds the text (default: the one of the training)."""
    batch_size: int = BATCH
    """Inputs that are computed at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.output is None:
            return
        if Path(self.output).suffix.lower() not in FORMATS:
            raise ValueError(f"output must name a {' or '.join(FORMATS)} file, got {self.output!r}")
        if not Path(self.output).parent.is_dir():
            raise ValueError(f"output must lie in a folder that exists, got {self.output!r}")


def run(argv: Sequence[str]) -> None:
    """Classify every row of a file, or every image of a folder, with a trained classifier."""
    classes = (ModelConfig, PredictConfig)
    (source, config), _ = parse("predict", argv, classes)
    if config.file is None:
        raise UsageError("name a file to classify: fftnet predict CHECKPOINT FILE")
    keep_freed_memory()
    classifier = load_classifier(source.checkpoint, device=source.device)
    data = replace(classifier.data, text_field=text_field(classifier, config.text_field))
    names, inputs = classifier.reader.read(config.file, data)
    found = classifier.predict(inputs, batch_size=config.batch_size, names=names)
    suffix = Path(config.output or ".jsonl").suffix or ".jsonl"
    answers = _answers(names, found, classifier.class_names)
    text = FORMATS[suffix.lower()](answers, classifier.class_names)
    if config.output is None:
        print(text, end="", flush=True)
        return
    try:
        write_whole(Path(config.output), text)
    except OSError as error:
        raise UsageError(f"{config.output} could not be written: {error.strerror or error}") from error
    print(f"{config.output}: {len(found):,} rows", file=sys.stderr, flush=True)


class Answer(NamedTuple):
    """What a classifier says of one input."""

    input: str
    """Name of the input."""
    label: str
    """The likeliest class."""
    probability: float
    """Of that class."""
    probabilities: dict[str, float]
    """Of all classes, by their names."""


def _answers(names: Sequence[str], probabilities: Tensor, class_names: Sequence[str]) -> list[Answer]:
    found = []
    for name, row in zip(names, probabilities.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        found.append(Answer(name, class_names[best], row[best], dict(zip(class_names, row, strict=True))))
    return found


def _json_lines(answers: Sequence[Answer], class_names: Sequence[str]) -> str:
    return "".join(json.dumps(answer._asdict(), ensure_ascii=False) + "\n" for answer in answers)


def _delimited(answers: Sequence[Answer], class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "label", "probability", *(f"probability_{name}" for name in class_names)])
    for name, label, probability, probabilities in answers:
        writer.writerow([name, label, probability, *probabilities.values()])
    return text.getvalue()


FORMATS: dict[str, Callable[[Sequence[Answer], Sequence[str]], str]] = {
    ".jsonl": _json_lines,
    ".csv": _delimited,
}
"""Suffix to a function that writes answers out, given the names of all classes, too."""
