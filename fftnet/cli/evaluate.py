"""``fftnet evaluate``: flags for ``fftnet.evaluate`` and ``fftnet.prediction.evaluate_classifier``."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fftnet.api import RUN_FILE, classifier_kind, evaluate, find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.data.sources import SYNTHETIC
from fftnet.evaluation.plots import plot_confusion, plot_loss_by_position
from fftnet.evaluation.report import EvaluationConfig, seen_in_training, trained_with
from fftnet.prediction import evaluate_classifier, load_classifier
from fftnet.serialization import CheckpointError
from fftnet.training.memory import keep_freed_memory
from fftnet.utils.dataset import DataConfig

Measured = tuple[dict[str, Any], Callable[[Path], None]]
"""A report, and what draws its picture."""


def run(argv: Sequence[str]) -> None:
    """Measure a trained model: on texts, by position in them, or a classifier on labelled data."""
    classes = (ModelConfig, EvaluationConfig, DataConfig)
    of_training = ("tokenizer", "vocab_size", "carry_state")
    (source, config, data), _ = parse("evaluate", argv, classes, without=of_training)
    path = find_checkpoint(source.checkpoint)
    keep_freed_memory()
    measure = _language_model if classifier_kind(path) is None else _classifier
    report, draw = measure(path, source, config, data)
    try:
        print(json.dumps({"checkpoint": str(path), **report}, indent=2, allow_nan=False), flush=True)
    except ValueError as error:
        raise CheckpointError(
            f"the losses of {path} are not finite: its weights are damaged, take another checkpoint"
        ) from error
    if config.plot is not None:
        try:
            draw(Path(config.plot))
        except OSError as error:
            raise UsageError(f"the plot {config.plot} could not be written: {error.strerror}") from error


def _language_model(path: Path, source: ModelConfig, config: EvaluationConfig, data: DataConfig) -> Measured:
    model, tokenizer = load_checkpoint(path, device=source.device)
    if config.plot is not None and (data.synthetic or not model.config.causal):
        raise UsageError("plot needs a causal model and documents: name a real text with --data")
    task, trained = trained_with(model, tokenizer, path / RUN_FILE)
    if warning := seen_in_training(trained, data, config.whole):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    report = evaluate(model, tokenizer, data, config, task=task)

    def draw(picture: Path) -> None:
        rows = report["whole_documents"]["by_position"]
        plot_loss_by_position(rows, model.config.max_seq_length, report["loss"], picture)

    return report, draw


def _classifier(path: Path, source: ModelConfig, config: EvaluationConfig, data: DataConfig) -> Measured:
    if config.max_tokens is not None:
        raise UsageError("max_tokens is for language models: a classifier is measured on whole rows")
    classifier = load_classifier(path, device=source.device)
    report = evaluate_classifier(classifier, data, whole=config.whole)
    shared = sorted(set(classifier.data.data) & set(data.data) - {SYNTHETIC})
    if report["split"] == "all" and shared:
        print(f"warning: the model was trained on a part of {', '.join(shared)}", file=sys.stderr, flush=True)
    return report, partial(plot_confusion, report["confusion_matrix"], classifier.class_names)
