"""The report of ``fftnet evaluate``: losses in windows, and on whole documents by position."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from fftnet.data.files import DIGEST, places
from fftnet.data.sources import SYNTHETIC
from fftnet.evaluation.documents import evaluate_documents
from fftnet.fields import check_fields, check_range, documented, string_list
from fftnet.metrics.averages import evaluate
from fftnet.model.fftnet_model import FFTNet
from fftnet.protocols import Objective
from fftnet.serialization import CheckpointError, read_json
from fftnet.tasks import LANGUAGE_TASKS
from fftnet.utils.dataset import DataConfig, load_evaluation_data
from fftnet.utils.tokenizer import Tokenizer

SPLIT_BY = ("text_field", "valid_fraction", "test_fraction", "data_seed")
"""Fields of the data that decide, beside the sources, which document is in which split."""


@documented
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


class Training(NamedTuple):
    """Facts about the training of a model."""

    task: str | None
    """Name of the task; None if it is unknown."""
    data: dict[str, Any]
    """Fields of the ``DataConfig``."""
    digest: str | None
    """Digest of the data; None in a checkpoint of an earlier version, or of generated samples."""


def trained_with(model: FFTNet, tokenizer: Tokenizer, run_file: Path) -> Training:
    """Return the task and the data that a model was trained with.

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
        return Training(name, dict(run["data"]), run.get(DIGEST))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run_file} is not that of this model, take another checkpoint") from error


def seen_in_training(
    trained: Training, data_config: DataConfig, digest: str | None, *, whole: bool
) -> str | None:
    """Return a sentence if a text that is measured may be one that trained the model, else None.

    Args:
        trained: of the training run.
        data_config: what is measured.
        digest: digest of what is measured.
        whole: all of it, not its test split.
    """
    words = string_list("data", trained.data.get("data", []))
    known = set(places(words)) - {SYNTHETIC}
    same = digest is not None and digest == trained.digest
    shared = [word for word in data_config.data if same or places([word])[0] in known]
    if not shared:
        return None
    if whole:
        return f"the model was trained on a part of {', '.join(shared)}: the losses are too low"
    asked = {field.name: getattr(data_config, field.name) for field in fields(data_config)}
    stored, wanted = ({name: values.get(name) for name in SPLIT_BY} for values in (trained.data, asked))
    changes = [
        f"{name} {stored[name]}, not {wanted[name]}" for name in SPLIT_BY if stored[name] != wanted[name]
    ]
    if not same and places(words) != places(data_config.data):
        changes.insert(0, f"data {words}, not {data_config.data}")
    elif None not in (digest, trained.digest) and not same:
        changes.append(f"{', '.join(shared)} has changed since")
    if not changes:
        return None
    return f"not the test split of training ({', '.join(changes)}): the model may have been trained on it"


def evaluation_report(
    model: FFTNet, objective: Objective, tokenizer: Tokenizer, config: EvaluationConfig, data: DataConfig
) -> dict[str, Any]:
    """Averages over windows, and over whole documents where there are any and the model carries a state.

    Returns:
        ``split``, the loss and the metrics of the objective, ``data_digest`` (of a text, the digest of its
        content), and under ``whole_documents`` those of ``fftnet.evaluation.documents.DocumentMetrics``.

    Raises:
        DataError: if the data can't be read, are too short, or all of the synthetic ones are asked for.
    """
    length = model.config.max_seq_length
    batches, documents, digest = load_evaluation_data(data, tokenizer, length, whole=config.whole)
    most = config.max_tokens and -(-config.max_tokens // (data.batch_size * length))
    metrics = evaluate(model, objective, batches, max_batches=most)
    report = {"split": "all" if config.whole else "test", **metrics.named()}
    if digest is not None:
        report[DIGEST] = digest
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
