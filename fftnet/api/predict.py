"""Trained classifiers: loaded, asked for classes, and measured on labelled data."""

import logging
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fftnet.api.load import RUN_FILE, classifier_kind, find_checkpoint
from fftnet.data.digest import DIGEST, UNVERIFIED
from fftnet.data.errors import DataError
from fftnet.data.labelled import LabelledData, encode_texts, pad_tokens, read_text_rows
from fftnet.data.walk import places
from fftnet.devices import pick_device
from fftnet.metrics.averages import evaluation_mode
from fftnet.metrics.classes import evaluate_classes
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.pretrained import PretrainedModel
from fftnet.model.vit import FFTNetViT
from fftnet.serialization import CheckpointError, read_json
from fftnet.tasks.base import Inputs, Request
from fftnet.tasks.classification import ClassificationConfig, labelled_batches, tell_cut
from fftnet.tasks.image_reader import ImageReader
from fftnet.utils.dataset import DataConfig
from fftnet.utils.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

BATCH = 32
"""Inputs that are classified at once, if nobody says otherwise."""


class Reader(Protocol):
    """What a kind of classifier reads, and how."""

    Config: ClassVar[type[Any]]
    """Settings of the task that trains this kind."""

    def __init__(self, folder: Path, model: Any) -> None:
        """Read what the checkpoint holds beside the model."""
        ...

    def read(self, word: str, data: DataConfig) -> Inputs:
        """Read the inputs of a file.

        Args:
            word: a file, or what else a word of ``--data`` may name.
            data: names the columns, where there are any.

        Raises:
            DataError: naming what can't be read.
        """
        ...

    def is_single(self, inputs: Any) -> bool:
        """Return True for one input, False for what may be a list of inputs.

        Raises:
            DataError: if it could be either.
        """
        ...

    def encode(self, inputs: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """What goes into the model, input by input; those of like ``len`` share a batch.

        Raises:
            DataError: naming the input that can't be read.
        """
        ...

    def batch(self, encoded: Sequence[Any]) -> tuple[Tensor, ...]:
        """Arguments of the model for several of what ``encode`` gave."""
        ...

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> LabelledData:
        """Return labelled data in their order: all of them, or the test split of the training.

        Raises:
            DataError: if they can't be read, or a label is none of the classes.
        """
        ...


class TextReader:
    """Strings, cut to the model's ``max_seq_length`` tokens as those that it was trained on."""

    Config: ClassVar[type[Any]] = ClassificationConfig

    def __init__(self, folder: Path, model: FFTNetForSequenceClassification) -> None:
        self.tokenizer = Tokenizer.load(folder)
        self._length = model.config.max_seq_length
        if self.tokenizer.vocab_size != model.config.vocab_size:
            raise CheckpointError(
                f"{folder} holds a tokenizer of {self.tokenizer.vocab_size} tokens and a model of "
                f"{model.config.vocab_size}: put back the tokenizer files that were saved with the model"
            )

    def read(self, word: str, data: DataConfig) -> Inputs:
        """Read the lines of a ``.txt`` file, or the texts of a table."""
        rows = read_text_rows(word, data.text_field)
        texts = [row.values[data.text_field] for row in rows]
        return Inputs([row.name for row in rows], texts, [row.values for row in rows])

    def is_single(self, inputs: Any) -> bool:
        """Return True for a text, and for what ``encode`` refuses with a sentence."""
        # A table of pandas would be taken for a list of its column names.
        return isinstance(inputs, (str, bytes, os.PathLike)) or getattr(inputs, "ndim", 1) > 1

    def encode(self, inputs: Sequence[str], names: Sequence[str]) -> list[Any]:
        """Return the ids of each text."""
        for name, text in zip(names, inputs, strict=True):
            if not isinstance(text, str):
                raise DataError(f"{name} must be a text, got {type(text).__name__}")
            if not text.strip():
                raise DataError(f"{name} is an empty text: there is nothing to classify")
        encoded, cut = encode_texts(names, inputs, self.tokenizer, self._length)
        tell_cut(cut, len(encoded), self._length)
        return encoded

    def batch(self, encoded: Sequence[Any]) -> tuple[Tensor, ...]:
        """Ids, and a mask where there is padding."""
        tokens, mask = pad_tokens(encoded)
        return (tokens,) if mask is None else (tokens, mask)

    def labelled(self, request: Request, class_names: Sequence[str], *, whole: bool) -> LabelledData:
        """Return all rows of the tables, or those that test."""
        return labelled_batches(request, class_names, self.tokenizer, whole=whole)


READERS: dict[type[PretrainedModel], type[Reader]] = {
    FFTNetForSequenceClassification: TextReader,
    FFTNetViT: ImageReader,
}
"""Kind of classifier to what it reads; a new kind is a line here and in ``fftnet.api.load.CLASSIFIERS``."""


class Classifier:
    """A trained classifier and what it reads.

    Args:
        model: in evaluation mode.
        reader: turns inputs into arguments of the model.
        run: of its training: ``data`` and ``task`` as in ``run.json``; empty where that is not known.
    """

    def __init__(self, model: Any, reader: Reader, run: dict[str, Any] | None = None) -> None:
        self.model = model
        self.reader = reader
        run = run or {}
        self.data = DataConfig(**run.get("data", {}))
        self.digest: str | None = run.get(DIGEST)
        self.settings = reader.Config(**run.get("task", {}).get("settings", {}))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, in order."""
        return self.model.config.class_names

    @torch.inference_mode()
    def predict(self, inputs: Any, *, batch_size: int = BATCH, names: Sequence[str] | None = None) -> Tensor:
        """Compute the probabilities of the classes of each input.

        Args:
            inputs: a text or a list of N texts; or an image or a list of N images. An image is an image of
                Pillow, or a uint8 array or tensor (H, W) or (H, W, C) with C of 1, 3 or 4. One array may hold
                N images: (N, H, W, C), or (N, H, W) if W is not 1, 3 or 4, and N is not 3 or 4.
            batch_size: inputs that are computed at once; it changes the time, not the answer.
            names: names of the inputs in messages (default: input 1, input 2, ...).

        Returns:
            float32 (N, K), on the CPU; each row adds up to 1.

        Raises:
            DataError: naming an input that can't be read, such as an empty text.
            CheckpointError: if a probability is not finite.
            ValueError: if ``batch_size`` is no positive integer, or there are not as many names as inputs.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        values = [inputs] if self.reader.is_single(inputs) else _listed(inputs)
        if names is None:
            names = [f"input {n + 1}" for n in range(len(values))]
        if len(names) != len(values):
            raise ValueError(f"names must be as many as the inputs, {len(values)}, got {len(names)}")
        encoded = self.reader.encode(values, names)
        found = torch.zeros(len(encoded), len(self.class_names))
        device = next(self.model.parameters()).device
        order = sorted(range(len(encoded)), key=lambda n: len(encoded[n]))
        with evaluation_mode(self.model):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                arguments = self.reader.batch([encoded[n] for n in chosen])
                logits = self.model(*(tensor.to(device) for tensor in arguments))
                found[chosen] = logits.float().softmax(dim=1).cpu()
        if not bool(found.isfinite().all()):
            raise CheckpointError(
                "the probabilities are not finite: the weights are damaged, take another checkpoint"
            )
        return found


def _listed(inputs: Any) -> list[Any]:
    if not isinstance(inputs, (Mapping, AbstractSet)):
        try:
            rows = iter(inputs)
        except TypeError:
            pass
        else:
            return list(rows)
    raise DataError(f"inputs must be one input or a list of inputs, got {type(inputs).__name__}")


def load_classifier(path: str | Path | None = None, *, device: str = "auto") -> Classifier:
    """Load a trained classifier.

        >>> classifier = fftnet.load_classifier("outputs/best")
        >>> probabilities = classifier.predict(["a text", "another"])
        >>> [classifier.class_names[row.argmax()] for row in probabilities]

    Args:
        path: a checkpoint, or a folder of runs, of which the newest counts; None: ``outputs``.
        device: cpu, cuda, or auto: cuda where there is one.

    Raises:
        UserError: naming the file that is missing or damaged, or that it is no classifier.
    """
    folder = find_checkpoint(path)
    kind = classifier_kind(folder)
    if kind is None or kind not in READERS:
        raise CheckpointError(f"{folder} is no classifier: train one with fftnet train --task classification")
    model = kind.from_pretrained(folder)
    run = folder / RUN_FILE
    reader = READERS[kind](folder, model)
    trained = read_json(run) if run.is_file() else {}
    try:
        return Classifier(model.to(pick_device(device)), reader, trained)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run} is not that of this model, take another checkpoint") from error


def evaluate_classifier(
    classifier: Classifier,
    data: DataConfig | str | Path | Sequence[str | Path] | None = None,
    *,
    whole: bool = False,
    text_field: str | None = None,
) -> dict[str, Any]:
    """Measure a classifier on labelled data.

    The data that it was trained on are the default; of them the test split is measured, divided as in
    training. Of any other data all rows are measured. Columns are called as in training.

    Args:
        classifier: from ``load_classifier``.
        data: the labelled data, and rows of a batch; or only a file, a folder or files.
        whole: all of the data, also of those that it was trained on.
        text_field: column that holds the text; None: the one of ``data`` if it is not the default, else
            the one of the training.

    Returns:
        ``split`` (test or all), and what ``fftnet.metrics.classes.evaluate_classes`` says.

    Raises:
        DataError: if the data can't be read, or a label is none of the classes.
        ValueError: if ``data`` is of another class.
    """
    trained = classifier.data
    asked = DataConfig() if data is None else data
    if not isinstance(asked, DataConfig):
        asked = DataConfig(data=asked)  # pyright: ignore[reportArgumentType]
    own = asked.synthetic or set(places(asked.data)) == set(places(trained.data))
    if own and trained.synthetic:
        raise DataError("it is not known what this model was trained on: name labelled data with data")
    whole = whole or not own
    if text_field is None:
        text_field = trained.text_field if asked.text_field == DataConfig().text_field else asked.text_field
    taken = replace(
        trained,
        data=trained.data if own else asked.data,
        text_field=text_field,
        batch_size=asked.batch_size,
    )
    request = Request(model=classifier.model.config, data=taken, settings=classifier.settings)
    read = classifier.reader.labelled(request, classifier.class_names, whole=whole)
    report = evaluate_classes(classifier.model, read.batches, classifier.class_names)
    names = ", ".join(trained.data if asked.synthetic else asked.data)
    same = read.digest == classifier.digest
    if whole and (same or set(places(taken.data)) & set(places(trained.data))):
        logger.warning("the model was trained on a part of %s: the results are too good", names)
    elif not whole and not same:
        logger.warning(
            "%s has changed since training, or an earlier version trained the model and divided the data by "
            "another rule: it may have been trained on rows of this test split",
            names,
        )
    return {"split": "all" if whole else "test" if same else UNVERIFIED, **report}
