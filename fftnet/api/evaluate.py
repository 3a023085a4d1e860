"""Evaluation of a trained language model on a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fftnet.evaluation.report import EvaluationConfig, evaluation_report
from fftnet.fields import check_config
from fftnet.model.fftnet_model import FFTNet
from fftnet.tasks import language_task
from fftnet.utils.dataset import DataConfig
from fftnet.utils.tokenizer import Tokenizer


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
        ``split``, the loss in nats, the metrics of the objective, and under ``whole_documents`` (a causal
        model on documents) the fields of ``fftnet.evaluation.documents.DocumentMetrics``.

    Raises:
        DataError: if the data can't be read or are too short.
        ValueError: if the task is unknown, the model can't have it, or an argument is of another class.
    """
    if not isinstance(data, DataConfig):
        data = DataConfig(data=data)  # pyright: ignore[reportArgumentType]
    config = config or EvaluationConfig()
    check_config("config", config, EvaluationConfig)
    name = ("next_token" if model.config.causal else "masked_token") if task is None else task
    objective = language_task(name)(tokenizer.token_bytes())
    return evaluation_report(model, objective, tokenizer, config, data)
