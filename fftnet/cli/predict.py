"""``fftnet predict``: flags for ``fftnet.api.predict``."""

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fftnet.api.predict import BATCH, Classifier, load_classifier
from fftnet.cli.flags import ModelConfig, UsageError, parse, read_standard_input
from fftnet.data.config import MAX_ROWS
from fftnet.data.errors import DataError
from fftnet.data.sources import resolve
from fftnet.fields import check_fields, check_range, documented
from fftnet.serialization import write_whole
from fftnet.tasks.readers import Inputs, TextReader
from fftnet.training.memory import keep_freed_memory

STDIN = "-"


@documented
@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Inputs of a classifier, and the file for its predictions."""

    file: str | None = None
    """Inputs: a table with texts in rows, a .txt file with a text per line, - for lines of standard input; an
    image, a folder of images or an .npz file."""
    text: str | None = None
    """Single text to classify, instead of a file."""
    output: str | None = None
    """File for the predictions, .jsonl or .csv, a row per input (default: JSON lines to the terminal)."""
    text_field: str | None = None
    """Column of the text (default: the one used in training)."""
    batch_size: int = BATCH
    """Inputs per batch."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_ROWS, "batch_size")
        if self.file is not None and self.text is not None:
            raise ValueError(f"give text {self.text!r} or file {self.file!r}, not both")
        if self.output is None:
            return
        if Path(self.output).suffix.lower() not in FORMATS:
            raise ValueError(f"output must name a {' or '.join(FORMATS)} file, got {self.output!r}")
        if not Path(self.output).parent.is_dir():
            raise ValueError(f"output must lie in a folder that exists, got {self.output!r}")
        if self.file is not None and Path(self.output).resolve() == Path(self.file).resolve():
            raise ValueError(f"output must not be the file that is classified, got {self.output!r}")


def run(argv: Sequence[str]) -> None:
    """Classify every row of a file, or every image of a folder, with a trained classifier."""
    classes = (ModelConfig, PredictConfig)
    (source, config), _ = parse("predict", argv, classes)
    keep_freed_memory()
    classifier = load_classifier(source.checkpoint, device=source.device)
    names, inputs, columns = _read(classifier, config)
    found = classifier.predict(inputs, batch_size=config.batch_size, names=names)
    # The terminal gets JSON lines.
    suffix = ".jsonl" if config.output is None else Path(config.output).suffix.lower()
    text = FORMATS[suffix](Answers(columns, found.tolist(), classifier.class_names))
    # A column of JSON may contain a lone surrogate, which is written as an escape.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if config.output is None:
        print(text, end="", flush=True)
        return
    try:
        write_whole(Path(config.output), text)
    except OSError as error:
        raise UsageError(f"{config.output} could not be written: {error.strerror or error}") from error
    print(f"{config.output}: {len(found):,} rows", file=sys.stderr, flush=True)


def _read(classifier: Classifier, config: PredictConfig) -> Inputs:
    """Read the text, the lines of standard input, or the inputs of the file."""
    field = config.text_field or classifier.data.text_field
    reads_texts = isinstance(classifier.reader, TextReader)
    if config.file is not None and config.file != STDIN:
        # A user may have given the text itself instead of a file.
        if reads_texts:
            _check_found(config.file)
        return classifier.reader.read(config.file, replace(classifier.data, text_field=field))
    if not reads_texts:
        raise UsageError("this classifier reads images, name them: fftnet predict CHECKPOINT FILE")
    texts = _lines_of_stdin(config.file) if config.text is None else [config.text]
    names = [f"standard input line {number}" for number in range(1, len(texts) + 1)]
    return Inputs(names if config.text is None else ["--text"], texts, [{field: text} for text in texts])


def _check_found(word: str) -> None:
    try:
        resolve([word])
    except DataError as error:
        raise UsageError(f"{error}; to classify a text itself, use --text {word!r}") from error


def _lines_of_stdin(file: str | None) -> list[str]:
    """Read all lines of standard input; a terminal only if the file is ``-``."""
    asked = sys.stdin is not None and (file == STDIN or not sys.stdin.isatty())
    text = read_standard_input() if asked else ""
    if not text.strip():
        raise UsageError(
            "name a file to classify: fftnet predict CHECKPOINT FILE; or give a text with --text, or texts "
            "as lines of standard input"
        )
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


class Answers(NamedTuple):
    """Predictions of a classifier for N inputs."""

    columns: Sequence[Mapping[str, Any]]
    """Columns of each input, repeated in the output."""
    probabilities: list[list[float]]
    """Probabilities (N, K)."""
    class_names: Sequence[str]

    def headed(self, *names: str) -> tuple[list[str], list[str]]:
        """Return the names of all columns, and names for the prediction, with a prefix if they are taken."""
        taken = list(dict.fromkeys(name for row in self.columns for name in row))
        free = []
        for name in names:
            while name in taken:
                name = f"predicted_{name}"
            free.append(name)
        return taken, free


def _json_lines(answers: Answers) -> str:
    _, (label, probability, probabilities) = answers.headed("label", "probability", "probabilities")
    lines = []
    for row, values in zip(*answers[:2], strict=True):
        each = {name: round(p, 4) for name, p in zip(answers.class_names, values, strict=True)}
        name = answers.class_names[values.index(max(values))]
        answer = {**row, label: name, probability: each[name], probabilities: each}
        lines.append(json.dumps(answer, ensure_ascii=False, default=str) + "\n")
    return "".join(lines)


def _delimited(answers: Answers) -> str:
    each = [f"probability_{name}" for name in answers.class_names]
    columns, own = answers.headed("label", "probability", *each)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *own])
    for row, values in zip(*answers[:2], strict=True):
        name = answers.class_names[values.index(max(values))]
        numbers = [f"{p:.4f}" for p in (max(values), *values)]
        writer.writerow([*(_cell(row.get(column)) for column in columns), name, *numbers])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a value of a table as a field: nested ones and booleans as JSON."""
    nested = isinstance(value, (bool, dict, list))
    return json.dumps(value, ensure_ascii=False, default=str) if nested else value


FORMATS: dict[str, Callable[[Answers], str]] = {".jsonl": _json_lines, ".csv": _delimited}
"""Suffix of a file to a function that formats predictions."""
