"""``fftnet evaluate``: flags for ``fftnet.evaluate`` and ``fftnet.api.predict.evaluate_classifier``."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fftnet.api.evaluate import EvaluationConfig, Training, evaluate, seen_in_training, trained_with
from fftnet.api.load import RUN_FILE, classifier_kind, find_checkpoint, load_checkpoint
from fftnet.api.predict import evaluate_classifier, load_classifier
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.data.files import DIGEST, UNVERIFIED
from fftnet.fields import documented
from fftnet.metrics.plots import plot_confusion, plot_loss_by_position
from fftnet.serialization import CheckpointError
from fftnet.training.memory import keep_freed_memory
from fftnet.utils.dataset import DataConfig

LABELS = {"f1": "F1", "macro_f1": "macro F1"}
"""Labels of metrics that differ from their names."""


@documented
@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Form of the report."""

    json: bool = False
    """Whole report as JSON instead of a table."""


@documented
@dataclass(frozen=True, kw_only=True)
class MeasuredData(DataConfig):
    """Evaluation data."""

    text_field: str = ""
    """Column of the text, in sources with columns (default: the one used in training)."""


Measured = tuple[dict[str, Any], Callable[[Path], None]]
"""A report, and a function that plots it."""


def run(argv: Sequence[str]) -> None:
    """Measure a trained model: on texts, by position in them, or a classifier on labelled data."""
    classes = (ModelConfig, EvaluationConfig, OutputConfig, MeasuredData)
    of_training = ("tokenizer", "vocab_size", "carry_state")
    (source, config, output, data), _ = parse("evaluate", argv, classes, without=of_training)
    path = find_checkpoint(source.checkpoint)
    keep_freed_memory()
    # The checkpoint decides what is measured.
    measure = _language_model if classifier_kind(path) is None else _classifier
    report, draw = measure(path, source, config, data)
    report = {"checkpoint": str(path), **report}
    try:
        # JSON has no NaN; a loss that is not finite means damaged weights.
        text = json.dumps(report, indent=2, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(
            f"the losses of {path} are not finite: its weights are damaged, take another checkpoint"
        ) from error
    print(text if output.json else "\n".join(_table(report)), flush=True)
    if config.plot is not None:
        try:
            draw(Path(config.plot))
        except OSError as error:
            raise UsageError(f"the plot {config.plot} could not be written: {error.strerror}") from error


def _language_model(path: Path, source: ModelConfig, config: EvaluationConfig, data: DataConfig) -> Measured:
    model, tokenizer = load_checkpoint(path, device=source.device)
    if config.plot is not None and (data.synthetic or not model.config.causal):
        raise UsageError("plot needs a causal model and documents: name a real text with --data")
    run_file = path / RUN_FILE
    if run_file.is_file():
        trained = trained_with(model, tokenizer, run_file)
    else:
        trained = Training(None, {}, None)
        _warn(f"{run_file} is missing: the model may have been trained on these data")
    field = data.text_field or trained.data.get("text_field", DataConfig().text_field)
    data = replace(data, text_field=field)
    report = evaluate(model, tokenizer, data, config, task=trained.task)
    if warning := seen_in_training(trained, data, report.pop(DIGEST, None), whole=config.whole):
        _warn(warning)
        report["split"] = "all" if config.whole else UNVERIFIED

    def draw(picture: Path) -> None:
        rows = report["whole_documents"]["by_position"]
        plot_loss_by_position(rows, model.config.max_seq_length, report["loss"], picture)

    return report, draw


def _classifier(path: Path, source: ModelConfig, config: EvaluationConfig, data: DataConfig) -> Measured:
    if config.max_tokens is not None:
        raise UsageError("max_tokens is for language models: a classifier is measured on whole rows")
    classifier = load_classifier(path, device=source.device)
    data = replace(data, text_field=data.text_field or classifier.data.text_field)
    report = evaluate_classifier(classifier, data, whole=config.whole, text_field=data.text_field)
    return report, partial(plot_confusion, report["confusion_matrix"], classifier.class_names)


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def _table(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a short report: numbers, then a line for each class or range of positions."""
    whole = report.get("whole_documents")
    yield from _numbers(report)
    if whole is not None:
        yield from ("", "whole documents", *_numbers(whole))
        rows = [
            (_span(row["first"], row["last"]), row["tokens"], row["loss"]) for row in whole["by_position"]
        ]
        yield from ("", *_aligned(("position", "tokens", "loss"), rows))
    if "classes" in report:
        columns = ("precision", "recall", "f1", "support")
        rows = [(_short(name), *map(numbers.get, columns)) for name, numbers in report["classes"].items()]
        yield from ("", *_aligned(("class", *columns), rows))


def _numbers(report: dict[str, Any]) -> list[str]:
    """Return a line for each value that is a number or a string."""
    values = {name: value for name, value in report.items() if not isinstance(value, (dict, list))}
    labels = {name: LABELS.get(name, name.replace("_", " ")) for name in values}
    width = max(len(label) for label in labels.values())
    return [f"{labels[name]:{width}}  {_shown(value)}" for name, value in values.items()]


def _aligned(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return lines of a table: the first column on the left, numbers on the right."""
    cells = [[LABELS.get(name, name) for name in header], *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    first, *others = widths
    return ["  ".join([name.ljust(first), *map(str.rjust, row, others)]) for name, *row in cells]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _span(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _short(name: str) -> str:
    """Return a class name on one line, at most 32 characters of it."""
    line = " ".join(name.split())
    return line if len(line) <= 32 else f"{line[:29]}..."
