"""Evaluation of trained language models: losses in windows, and on whole documents by position."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fftnet.data.files import DIGEST, places
from fftnet.data.sources import SYNTHETIC
from fftnet.evaluation.documents import evaluate_documents
from fftnet.fields import check_config, check_fields, check_range, documented, string_list
from fftnet.metrics import averages
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import CheckpointError, read_json
from fftnet.tasks import LANGUAGE_TASKS, find_task
from fftnet.utils.dataset import DataConfig, load_evaluation_data
from fftnet.utils.tokenizer import Tokenizer

SPLIT_BY = ("text_field", "valid_fraction", "test_fraction", "data_seed")
"""Fields of the data that decide, next to the sources, which document is in which split."""


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The part of a text that is measured, and a plot of it."""

    whole: bool = False
    """Measure all of a text instead of its test split: for text that the model was not trained on."""
    max_tokens: int | None = None
    """Maximum number of tokens; windows are read by whole batches (default: all)."""
    plot: str | None = None
    """PNG file for the loss by position in the document, which shows the use of long context. For a
    classifier: the confusion matrix."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, None, "max_tokens")
        if self.plot is None:
            return
        if Path(self.plot).suffix.lower() != ".png":
            raise ValueError(f"plot must name a .png file, got {self.plot!r}")
        if not Path(self.plot).parent.is_dir():
            raise ValueError(f"plot must lie in a folder that exists, got {self.plot!r}")


def evaluate(
    model: FFTNet,
    tokenizer: Tokenizer,
    data: DataConfig | str | Path | Sequence[str | Path],
    config: EvaluationConfig | None = None,
    *,
    task: str | None = None,
) -> dict[str, Any]:
    """Measure a model on a text: in windows of its training length, and on whole documents by position.

        >>> fftnet.evaluate(model, tokenizer, "book.txt", fftnet.EvaluationConfig(whole=True))["loss"]

    Args:
        model: its mode is restored afterwards.
        tokenizer: tokenizer of the model.
        data: configuration of the text and its division, or only its file or files.
        config: the part of the text that is measured.
        task: name of the objective; None: next_token for a causal model, else masked_token.

    Returns:
        ``split``, the loss in nats, the metrics of the objective, ``data_digest`` (digest of the content of a
        text), and under ``whole_documents`` (a causal model on documents) the fields of
        ``fftnet.evaluation.documents.DocumentMetrics``.

    Raises:
        DataError: if the data can't be read, are too short, or all synthetic ones are asked for.
        ValueError: if the task is unknown, the model can't have it, or an argument is of another class.
    """
    if not isinstance(data, DataConfig):
        data = DataConfig(data=data)  # pyright: ignore[reportArgumentType]
    config = config or EvaluationConfig()
    check_config("config", config, EvaluationConfig)
    name = ("next_token" if model.config.causal else "masked_token") if task is None else task
    objective = find_task(name, LANGUAGE_TASKS)(tokenizer.token_bytes())
    length = model.config.max_seq_length
    batches, documents, digest = load_evaluation_data(data, tokenizer, length, whole=config.whole)
    # Rounded up: a batch of windows is read whole.
    most = config.max_tokens and -(-config.max_tokens // (data.batch_size * length))
    metrics = averages.evaluate(model, objective, batches, max_batches=most)
    report = {"split": "all" if config.whole else "test", **metrics.named()}
    # Digests tell whether the text was part of the training.
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


class Training(NamedTuple):
    """Task and data of the training of a model."""

    task: str | None
    """Name of the task; None if it is unknown."""
    data: dict[str, Any]
    """Fields of the ``DataConfig``."""
    digest: str | None
    """Digest of the data; None in a checkpoint of an earlier version, or for generated samples."""


def trained_with(model: FFTNet, tokenizer: Tokenizer, run_file: Path) -> Training:
    """Return the task and the data that a model was trained with, from the ``run.json`` of its checkpoint.

    Raises:
        CheckpointError: if the file is missing or damaged, or names an objective that the model can't have.
    """
    run = read_json(run_file)
    try:
        name = run["task"]["task"]
        # A masked-token model has one id more, for its mask.
        if model.config.vocab_size != tokenizer.vocab_size + LANGUAGE_TASKS[name].extra_tokens:
            raise ValueError("the vocabulary is that of another objective")
        return Training(name, dict(run["data"]), run.get(DIGEST))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run_file} is not that of this model, take another checkpoint") from error


def seen_in_training(
    trained: Training, data_config: DataConfig, digest: str | None, *, whole: bool
) -> str | None:
    """Return a warning if measured text may have trained the model, else None.

    ``digest`` is that of the measured data, and ``whole`` measures all of them instead of their test split.
    """
    words = string_list("data", trained.data.get("data", []))
    # Places compare alike however a path is spelled or linked.
    known = set(places(words)) - {SYNTHETIC}
    # The digest recognizes a copy at another place; without one, only the place is known.
    same = digest is not None and digest == trained.digest
    shared = [word for word in data_config.data if same or places([word])[0] in known]
    if not shared:
        return None
    if whole:
        return f"the model was trained on a part of {', '.join(shared)}: the losses are too low"
    asked = asdict(data_config)
    before = trained.data
    changes = [f"{n} {before.get(n)}, not {asked[n]}" for n in SPLIT_BY if before.get(n) != asked[n]]
    if not same and places(words) != places(data_config.data):
        changes.insert(0, f"data {words}, not {data_config.data}")
    elif None not in (digest, trained.digest) and not same:
        changes.append(f"{', '.join(shared)} has changed since")
    if not changes:
        return None
    return f"not the test split of training ({', '.join(changes)}): the model may have been trained on it"
