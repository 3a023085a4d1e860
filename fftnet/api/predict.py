"""Trained classifiers: load one, predict classes, and evaluate it on labelled data."""

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fftnet.api.load import RUN_FILE, classifier_kind, find_checkpoint
from fftnet.data.errors import DataError, listed
from fftnet.data.files import DIGEST, UNVERIFIED, places
from fftnet.devices import pick_device
from fftnet.metrics.averages import evaluation_mode
from fftnet.metrics.classes import evaluate_classes
from fftnet.serialization import CheckpointError, read_json
from fftnet.tasks.base import Request
from fftnet.tasks.readers import READERS, Reader
from fftnet.utils.dataset import DataConfig

logger = logging.getLogger(__name__)

BATCH = 32
"""Default number of inputs that are classified at once."""


class Classifier:
    """A trained classifier with the reader of its inputs, and ``data`` and ``task`` of its ``run.json``."""

    def __init__(self, model: Any, reader: Reader, run: dict[str, Any]) -> None:
        self.model = model
        self.reader = reader
        run = run or {}
        self.data = DataConfig(**run.get("data", {}))
        self.digest: str | None = run.get(DIGEST)
        self.settings = reader.Config(**run.get("task", {}).get("settings", {}))

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        classes = f"{len(self.class_names)} classes: {listed(self.class_names)}"
        return f"Classifier({kind}, {classes}; {self.model.num_parameters():,} parameters)"

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
            batch_size: inputs that are computed at once; it does not change the result.
            names: names of the inputs in messages (default: input 1, input 2, ...).

        Returns:
            float32 (N, K), on the CPU; each row adds up to 1.

        Raises:
            DataError: naming an input that can't be read, such as an empty text.
            CheckpointError: if a probability is not finite.
            ValueError: if ``batch_size`` is no positive integer, or there is not one name for each input.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        values = [inputs] if self.reader.is_single(inputs) else _listed(inputs)
        if names is None:
            names = [f"input {n + 1}" for n in range(len(values))]
        if len(names) != len(values):
            raise ValueError(f"names must be as many as the inputs, {len(values)}, got {len(names)}")
        encoded = self.reader.encode(values, names)
        # Results are put back in the order of the inputs.
        found = torch.zeros(len(encoded), len(self.class_names))
        device = next(self.model.parameters()).device
        # Inputs of similar length share a batch, which saves padding.
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
    # Iterating over a dictionary would classify its keys. Arrays and tensors without dimensions have no rows.
    try:
        rows = None if isinstance(inputs, (Mapping, AbstractSet)) else iter(inputs)
    except TypeError:
        rows = None
    if rows is None:
        raise DataError(f"inputs must be one input or a list of inputs, got {type(inputs).__name__}")
    return list(rows)


def load_classifier(path: str | Path | None = None, *, device: str = "auto") -> Classifier:
    """Load a trained classifier.

        >>> classifier = fftnet.load_classifier("outputs/best")
        >>> probabilities = classifier.predict(["a text", "another"])
        >>> [classifier.class_names[row.argmax()] for row in probabilities]

    Args:
        path: a checkpoint, or a folder of runs, whose newest checkpoint is taken; None: ``outputs``.
        device: cpu, cuda, or auto: cuda if available.

    Raises:
        UserError: naming the file that is missing or damaged, or the folder without a classifier.
    """
    # The newest checkpoint may be a language model, which has another loader.
    folder = find_checkpoint(path)
    kind = classifier_kind(folder)
    if kind is None:
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

    The default is the test split of the training data, divided as in training. All rows of any other data
    are measured. Column names are those of training.

    Args:
        classifier: from ``load_classifier``.
        data: the labelled data and the rows of a batch, or only a file, a folder or files.
        whole: all rows of the data, also of those that trained the model.
        text_field: column that holds the text; None: the one of ``data`` if it is not the default, else
            the one of the training.

    Returns:
        ``split`` (test or all), and the fields of ``fftnet.metrics.classes.evaluate_classes``.

    Raises:
        DataError: if the data can't be read, or have a label that the model lacks.
        ValueError: if ``data`` is of another class.
    """
    trained = classifier.data
    asked = DataConfig() if data is None else data
    if not isinstance(asked, DataConfig):
        asked = DataConfig(data=asked)  # pyright: ignore[reportArgumentType]
    # The default of ``data`` is synthetic samples, which stand for the training data here.
    own = asked.synthetic or set(places(asked.data)) == set(places(trained.data))
    if own and trained.synthetic:
        raise DataError("it is not known what this model was trained on: name labelled data with data")
    whole = whole or not own
    if text_field is None:
        text_field = trained.text_field if asked.text_field == DataConfig().text_field else asked.text_field
    sources = trained.data if own else asked.data
    taken = replace(trained, data=sources, text_field=text_field, batch_size=asked.batch_size)
    request = Request(model=classifier.model.config, data=taken, settings=classifier.settings)
    batches, digest = classifier.reader.labelled(request, classifier.class_names, whole=whole)
    report = evaluate_classes(classifier.model, batches, classifier.class_names)
    names = ", ".join(trained.data if asked.synthetic else asked.data)
    # The digest recognizes a copy of the training data at another place.
    same = digest == classifier.digest
    if whole and (same or set(places(taken.data)) & set(places(trained.data))):
        logger.warning("the model was trained on a part of %s: the results are too good", names)
    elif not whole and not same:
        logger.warning(
            "%s has changed since training, or an earlier version trained the model and divided the data by "
            "another rule: it may have been trained on rows of this test split",
            names,
        )
    return {"split": "all" if whole else "test" if same else UNVERIFIED, **report}
