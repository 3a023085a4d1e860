"""``fftnet predict``: flags for ``fftnet.prediction``."""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.prediction import BATCH, load_classifier, text_field


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
    words = list(argv)
    if len(words) > 1 and not words[0].startswith("-") and not words[1].startswith("-"):
        words.insert(1, "--file")
    classes = (ModelConfig, PredictConfig)
    (source, config), _ = parse("predict", run.__doc__, words, classes, positional="checkpoint")
    if config.file is None:
        raise UsageError("name a file to classify: fftnet predict CHECKPOINT FILE")
    classifier = load_classifier(source.checkpoint, device=source.device)
    data = replace(classifier.data, text_field=text_field(classifier, config.text_field))
    names, inputs = classifier.reader.read(config.file, data)
    found = classifier.predict(inputs, batch_size=config.batch_size, names=names)
    suffix = Path(config.output or ".jsonl").suffix or ".jsonl"
    answers = FORMATS[suffix.lower()](names, found, classifier.class_names)
    if config.output is None:
        print(answers, end="", flush=True)
        return
    _write(Path(config.output), answers)
    print(f"{config.output}: {len(found):,} rows", file=sys.stderr, flush=True)


def _json_lines(names: Sequence[str], probabilities: Tensor, class_names: Sequence[str]) -> str:
    rows = []
    for name, row in zip(names, probabilities.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        named = dict(zip(class_names, row, strict=True))
        answer = {"input": name, "label": class_names[best], "probability": row[best], "probabilities": named}
        rows.append(json.dumps(answer, ensure_ascii=False) + "\n")
    return "".join(rows)


def _delimited(names: Sequence[str], probabilities: Tensor, class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "label", "probability", *(f"probability_{name}" for name in class_names)])
    for name, row in zip(names, probabilities.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        writer.writerow([name, class_names[best], row[best], *row])
    return text.getvalue()


FORMATS: dict[str, Callable[[Sequence[str], Tensor, Sequence[str]], str]] = {
    ".jsonl": _json_lines,
    ".csv": _delimited,
}
"""Suffix of the answers to a function that writes them out, from names of the inputs (N), probabilities
(N, K) and names of the classes (K)."""


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; an older one stays until then."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UsageError(f"{path} could not be written: {error.strerror or error}") from error
