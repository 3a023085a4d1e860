"""``fftnet evaluate``: flags for ``fftnet.evaluate``."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fftnet.api import RUN_FILE, evaluate, find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.evaluation.plots import plot_loss_by_position
from fftnet.evaluation.report import EvaluationConfig, seen_in_training, trained_with
from fftnet.serialization import CheckpointError
from fftnet.utils.dataset import DataConfig


def run(argv: Sequence[str]) -> None:
    """Measure a trained model on a text: in windows, and on whole documents of any length, by position."""
    classes = (ModelConfig, EvaluationConfig, DataConfig)
    of_training = ("tokenizer", "vocab_size", "carry_state")
    (source, config, data), _ = parse(
        "evaluate", run.__doc__, argv, classes, without=of_training, positional="checkpoint"
    )
    path = find_checkpoint(source.checkpoint)
    model, tokenizer = load_checkpoint(path, device=source.device)
    if config.plot is not None and (data.synthetic or not model.config.causal):
        raise UsageError("plot needs a causal model and documents: name a real text with --data")
    task, trained = trained_with(model, tokenizer, path / RUN_FILE)
    if warning := seen_in_training(trained, data, config.whole):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    report = evaluate(model, tokenizer, data, config, task=task)
    try:
        print(json.dumps({"checkpoint": str(path), **report}, indent=2, allow_nan=False), flush=True)
    except ValueError as error:
        raise CheckpointError(
            f"the losses of {path} are not finite: its weights are damaged, take another checkpoint"
        ) from error
    if config.plot is not None:
        rows = report["whole_documents"]["by_position"]
        try:
            plot_loss_by_position(rows, model.config.max_seq_length, report["loss"], Path(config.plot))
        except OSError as error:
            raise UsageError(f"the plot {config.plot} could not be written: {error.strerror}") from error
