"""The report of ``fftnet evaluate``: losses in windows, and on whole documents by position."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fftnet.data.sources import SYNTHETIC
from fftnet.evaluation.documents import evaluate_documents
from fftnet.evaluation.metrics import evaluate
from fftnet.fields import check_fields, check_range
from fftnet.model.fftnet_model import FFTNet
from fftnet.protocols import Objective
from fftnet.serialization import CheckpointError, read_json
from fftnet.tasks import LANGUAGE_TASKS
from fftnet.utils.dataset import DataConfig, load_evaluation_data
from fftnet.utils.tokenizer import Tokenizer

SPLIT_BY = ("data", "text_field", "valid_fraction", "test_fraction", "data_seed")
"""Fields of the data that decide which document is in which split."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The part of a text that is measured, and a plot of it.

    Raises:
        ValueError: if a field is out of range, or the plot's folder is not there.
    """

    whole: bool = False
    """Measure all of a text, not its test split: for text that the model was not trained on."""
    max_tokens: int | None = None
    """Stop after so many tokens; windows are read by whole batches (default: take all)."""
    plot: str | None = None
    """PNG file for the loss by position in the document: does the model use long context? Of a classifier:
    which class is taken for which."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "max_tokens")
        if self.plot is None:
            return
        if Path(self.plot).suffix.lower() != ".png":
            raise ValueError(f"plot must name a .png file, got {self.plot!r}")
        if not Path(self.plot).parent.is_dir():
            raise ValueError(f"plot must lie in a folder that exists, got {self.plot!r}")


def trained_with(model: FFTNet, tokenizer: Tokenizer, run_file: Path) -> tuple[str, dict[str, Any]]:
    """The name of the task and the fields of the data that a model was trained with.

    Args:
        model: as it was loaded.
        tokenizer: that of the model.
        run_file: JSON beside the weights, with ``task`` and ``data``.

    Raises:
        CheckpointError: if the file is missing or damaged, or names an objective that the model can't have.
    """
    run = read_json(run_file)
    try:
        name = run["task"]["task"]
        if model.config.vocab_size != tokenizer.vocab_size + LANGUAGE_TASKS[name].extra_tokens:
            raise ValueError("the vocabulary is that of another objective")
        return name, dict(run["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run_file} is not that of this model, take another checkpoint") from error


def seen_in_training(trained: dict[str, Any], data_config: DataConfig, whole: bool) -> str | None:
    """A sentence where a text that is measured may be one that trained the model, else None.

    Args:
        trained: fields of the data of the training run.
        data_config: what is measured.
        whole: all of it, not its test split.
    """
    shared = set(trained.get("data", [])) & set(data_config.data) - {SYNTHETIC}
    if not shared:
        return None
    if whole:
        return f"the model was trained on a part of {', '.join(sorted(shared))}: the losses are too low"
    asked = {field.name: getattr(data_config, field.name) for field in fields(data_config)}
    stored, wanted = ({name: values.get(name) for name in SPLIT_BY} for values in (trained, asked))
    changed = ", ".join(
        f"{name} {stored[name]}, not {wanted[name]}" for name in SPLIT_BY if stored[name] != wanted[name]
    )
    return changed and f"not the test split of training ({changed}): the model may have been trained on it"


def evaluation_report(
    model: FFTNet, objective: Objective, tokenizer: Tokenizer, config: EvaluationConfig, data: DataConfig
) -> dict[str, Any]:
    """Averages over windows, and over whole documents where there are any and the model carries a state.

    Returns:
        ``split``, the loss and the metrics of the objective, and under ``whole_documents``
        those of ``fftnet.evaluation.documents.DocumentMetrics``.

    Raises:
        DataError: if the data can't be read, are too short, or all of the synthetic ones are asked for.
    """
    length = model.config.max_seq_length
    batches, documents, _ = load_evaluation_data(data, tokenizer, length, whole=config.whole)
    most = config.max_tokens and -(-config.max_tokens // (data.batch_size * length))
    metrics = evaluate(model, objective, batches, max_batches=most)
    report = {"split": "all" if config.whole else "test", **metrics.named()}
    if documents is not None and model.config.causal:
        read = evaluate_documents(
            model,
            documents.tokens,
            *documents.documents(),
            batch_size=data.batch_size,
            token_bytes=tokenizer.token_bytes(),
            max_tokens=config.max_tokens,
        )
        report["whole_documents"] = asdict(read)
    return report
