"""Classification of texts: a label for each, learned from rows of tables."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fftnet.data import labelled
from fftnet.data.splits import TEST, TRAIN, VALID
from fftnet.fields import check_fields, documented
from fftnet.model.classifier import POOLINGS, FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.heads import MEAN
from fftnet.tasks.base import Prepared, Request
from fftnet.tasks.labels import WEIGHTINGS, check_label_smoothing, label_objective
from fftnet.tasks.text import sizes_of
from fftnet.utils.dataset import DataConfig, Splits
from fftnet.utils.tokenizer import load_tokenizer


@documented
@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """Settings of text classification; the texts are in ``text_field`` of the data.

    Raises:
        ValueError: if a field is unknown or out of range.
    """

    label_field: str = "label"
    """Column that holds the label: a string, an integer or a boolean."""
    pooling: str = field(default=MEAN, metadata={"choices": lambda: POOLINGS})
    """Vector that is classified: the mean of all tokens, or the last token (causal models: it alone has seen
    the whole text)."""
    label_smoothing: float = 0.0
    """Part of a label that is spread evenly over all classes, against overconfidence."""
    class_weights: str = field(default="none", metadata={"choices": lambda: WEIGHTINGS})
    """Weights of the losses of each class: none, or balanced, with which rare classes weigh like others."""
    valid_data: list[str] = field(default_factory=list)
    """Tables for validation (default: valid_fraction of each class, held out of the data)."""
    test_data: list[str] = field(default_factory=list)
    """Tables for the test (default: test_fraction of each class, held out of the data)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_label_smoothing(self.label_smoothing)


class Classification:
    """Task of one label per text."""

    Config: ClassVar[type[Any]] = ClassificationConfig

    @staticmethod
    def prepare(request: Request) -> Prepared:
        """Read the tables, find the classes, learn or load the tokenizer and encode the texts."""
        config, data, settings = request.model, request.data, request.settings
        check_data(data)
        parts, digest = divide(data, settings)
        class_names = labelled.find_classes(parts[0].labels)
        classes = [labelled.class_indices(rows, class_names) for rows in parts]
        # Only training texts teach the tokenizer: held-out text must not influence it.
        tokenizer = load_tokenizer(data.tokenizer, corpus=parts[0].texts, vocab_size=data.vocab_size)
        rows = labelled.encode_texts(parts, tokenizer, config.max_seq_length)
        # Only training is shuffled.
        seeds = (data.data_seed, None, None)
        train, valid, test = (
            labelled.LabelledBatches(ids, labels, data.batch_size, seed)
            for ids, labels, seed in zip(rows, classes, seeds, strict=True)
        )

        def build_model() -> FFTNetForSequenceClassification:
            sizes = SequenceClassifierConfig(
                vocab_size=tokenizer.vocab_size,
                num_classes=len(class_names),
                class_names=class_names,
                pooling=settings.pooling,
                **sizes_of(config),
            )
            return FFTNetForSequenceClassification(sizes)

        return Prepared(
            build_model=build_model,
            objective=label_objective(settings, classes[0].tolist(), len(class_names), "texts"),
            splits=Splits(train, valid, test, digest=digest),
            tokenizer=tokenizer,
            measure_test=True,
        )


def check_data(data: DataConfig) -> None:
    """Refuse settings of the data that texts with labels can't have, with a ValueError."""
    if data.synthetic:
        raise ValueError("classification needs texts with labels: name a table with data")
    if data.carry_state:
        raise ValueError("carry_state is for language models: a text and its label are one row, leave it out")
    if data.reset_at_documents:
        raise ValueError("reset_at_documents is for language models: here a text has its row, leave it out")


def divide(data: DataConfig, settings: ClassificationConfig) -> tuple[list[labelled.LabelledTexts], str]:
    """Divide all rows into three parts without common rows; return them and a digest of all rows."""
    rows = labelled.read_labelled(data.data, data.text_field, settings.label_field)
    # A single class gets its message before the split looks for rows of every class.
    labelled.find_classes(rows.labels)
    split = labelled.stratified_split(
        rows.labels,
        (text.encode() for text in rows.texts),
        valid_fraction=0.0 if settings.valid_data else data.valid_fraction,
        test_fraction=0.0 if settings.test_data else data.test_fraction,
        seed=data.data_seed,
    )
    named = {
        part: labelled.read_labelled(words, data.text_field, settings.label_field)
        for part, words in ((VALID, settings.valid_data), (TEST, settings.test_data))
        if words
    }
    parts = [named.get(part) or rows.take(np.flatnonzero(split == part)) for part in (TRAIN, VALID, TEST)]
    return parts, labelled.digest_rows(rows, *named.values())
