"""Text classification: training, checkpoints, evaluation, and inputs that are refused."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fftnet
from fftnet import (
    AcceleratorConfig,
    BudgetConfig,
    DataConfig,
    OptimConfig,
    RunConfig,
    SaveConfig,
    TaskConfig,
    TrainConfig,
    train,
)
from fftnet.api.predict import Classifier, evaluate_classifier
from fftnet.api.train import TrainingResult
from fftnet.data.errors import DataError
from fftnet.model.classifier import FFTNetForSequenceClassification
from fftnet.model.config import BackboneConfig
from fftnet.serialization import CheckpointError, read_json
from fftnet.tasks import TASKS
from fftnet.tasks.base import Request
from fftnet.tasks.classification import ClassificationConfig


def table(path: Path, count: int, classes: tuple[Any, ...] = (3, 10, 20), **fields: str) -> str:
    """Write rows of 1 to 12 letters whose first letter is the class."""
    rng = random.Random(f"{path.name}/{count}")
    names = {"text": "text", "label": "label"} | fields
    rows = []
    for number in range(count):
        label = classes[number % len(classes)]
        text = "xyz"[classes.index(label)] + "".join(rng.choices("abc ", k=number % 12))
        rows.append(json.dumps({names["text"]: text, names["label"]: label}))
    path.write_text("\n".join(rows))
    return str(path)


def run(folder: Path, data: DataConfig, *, causal: bool = False, **settings: Any) -> TrainingResult:
    torch.manual_seed(0)
    sizes = BackboneConfig(d_model=16, num_heads=4, num_layers=1, causal=causal, max_seq_length=10)
    return train(
        RunConfig(
            model=sizes,
            data=data,
            task=TaskConfig(task="classification", settings=ClassificationConfig(**settings)),
            optim=OptimConfig(learning_rate=1e-2),
            budget=BudgetConfig(max_steps=120),
            train=TrainConfig(progress=False, eval_every=60),
            accelerator=AcceleratorConfig(device="cpu", trackers=["none"]),
            save=SaveConfig(output_dir=str(folder / "outputs")),
        )
    )


def prepare(data: DataConfig, **settings: Any) -> Any:
    request = Request(model=BackboneConfig(), data=data, settings=ClassificationConfig(**settings))
    return TASKS["classification"].prepare(request)


@pytest.mark.parametrize("causal", [False, True])
def test_a_trained_classifier_predicts_the_same_after_loading(
    causal: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataConfig(data=[table(tmp_path / "a.jsonl", 120)], batch_size=8)
    with caplog.at_level(logging.WARNING):
        result = run(tmp_path, data, causal=causal, label_smoothing=0.1, class_weights="balanced")
    (told,) = [record.message for record in caplog.records if "max_seq_length" in record.message]
    assert told.startswith("20 of 120 texts are longer than max_seq_length 10 tokens and are cut: only the")
    assert isinstance(result.model, FFTNetForSequenceClassification)
    assert result.model.config.class_names == ("3", "10", "20")
    assert result.model.config.pooling == "mean"
    assert result.history[-1]["accuracy"] == result.history[-1]["macro_f1"] == 1.0
    kept = read_json(result.folder / "metrics.json")["test"]
    assert kept == result.history[-1]["test"]
    assert (kept["targets"], kept["accuracy"], kept["macro_f1"], kept["weights"]) == (6, 1.0, 1.0, "best")
    classifier = fftnet.load_classifier(result.folder / "last", device="cpu")
    texts = ["z", "x", "y abc", "yc", "z b a c a b a c"]
    found = classifier.predict(texts)
    assert [classifier.class_names[row.argmax()] for row in found] == ["20", "3", "10", "10", "20"]
    assert torch.allclose(found.sum(dim=1), torch.ones(5))
    alone = torch.cat([classifier.predict([text]) for text in texts])
    torch.testing.assert_close(classifier.predict(texts, batch_size=2), alone, rtol=1e-5, atol=1e-6)
    direct = result.model(torch.tensor([list(b"y abc")])).softmax(dim=1)
    torch.testing.assert_close(found[2:3], direct.detach(), rtol=1e-5, atol=1e-6)
    report = evaluate_classifier(classifier)
    assert (report["split"], report["rows"], report["accuracy"]) == ("test", 6, 1.0)
    assert evaluate_classifier(classifier, data, whole=True)["rows"] == 120


def test_separate_files_for_validation_and_test_with_any_column_names(tmp_path: Path) -> None:
    names: dict[str, Any] = {"text": "body", "label": "stars"}
    data = DataConfig(data=[table(tmp_path / "a.jsonl", 30, **names)], text_field="body", batch_size=8)
    valid = table(tmp_path / "v.jsonl", 7, **names)
    test = table(tmp_path / "t.jsonl", 11, **names)
    result = run(tmp_path, data, label_field="stars", valid_data=[valid], test_data=[test])
    assert result.history[-1]["test"]["targets"] == 11
    classifier = fftnet.load_classifier(result.folder / "best")
    assert evaluate_classifier(classifier)["rows"] == 11
    other = evaluate_classifier(classifier, DataConfig(data=[valid]))
    assert (other["split"], other["rows"]) == ("all", 7)
    assert [numbers["support"] for numbers in other["classes"].values()] == [3, 2, 2]


def test_a_part_of_each_class_is_held_out_and_no_row_is_in_two_parts(tmp_path: Path) -> None:
    data = DataConfig(data=[table(tmp_path / "a.jsonl", 90)], batch_size=4, test_fraction=0.2)
    prepared = prepare(data)
    parts: list[set[tuple[int, ...]]] = []
    rows = 0
    for split in (prepared.splits.train, prepared.splits.valid, prepared.splits.test):
        batches = [split.batch(0, index) for index in range(split.num_batches)]
        labels = torch.cat([batch.targets for batch in batches])
        assert (labels.bincount() > 0).tolist() == [True] * 3
        rows += len(labels)
        parts.append({tuple(row[row > 0].tolist()) for batch in batches for row in batch.inputs})
    assert rows == 90
    # Equal texts are in one part, too.
    assert len(set().union(*parts)) == sum(map(len, parts))
    assert prepared.objective.unit == "texts"


@pytest.mark.parametrize(
    ("settings", "fields", "sentence"),
    [
        ({"pooling": "max"}, {}, "unknown pooling 'max'; choose from mean, last"),
        ({"class_weights": "equal"}, {}, "unknown class_weights 'equal'; choose from none, balanced"),
        ({"label_smoothing": 1.0}, {}, "label_smoothing must lie in"),
        ({}, {"data": ["synthetic"]}, "classification needs texts with labels: name a table with data"),
        ({}, {"carry_state": 2}, "carry_state is for language models"),
        ({}, {"reset_at_documents": True}, "reset_at_documents is for language models"),
        ({"label_field": "class"}, {}, r"a.jsonl line 1 has no label in field 'class' \(its fields: text"),
        ({"valid_data": ["OTHER"]}, {}, r"b.jsonl line 3 has the label 'new', which no row of training has"),
        ({"test_data": ["OTHER"]}, {}, r"b.jsonl line 3 has the label 'new', which no row of training has"),
    ],
)
def test_settings_and_data_that_do_not_fit_are_refused(
    settings: dict[str, Any], fields: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    other = table(tmp_path / "b.jsonl", 9, (3, 10, "new"))
    given = {name: [other] if value == ["OTHER"] else value for name, value in settings.items()}
    values: dict[str, Any] = {"data": [table(tmp_path / "a.jsonl", 30)]} | fields
    with pytest.raises(ValueError, match=sentence):
        prepare(DataConfig(**values), **given)
    with pytest.raises(ValueError, match="settings of next_token must be of NoSettings"):
        TaskConfig(settings=ClassificationConfig())


def test_wrong_checkpoints_and_inputs_are_refused(tmp_path: Path) -> None:
    result = run(tmp_path, DataConfig(data=[table(tmp_path / "a.jsonl", 30)]))
    folder = result.folder / "best"
    with pytest.raises(CheckpointError, match="is a classifier, not a language model: use fftnet predict"):
        fftnet.load(folder)
    classifier: Classifier = fftnet.load_classifier(folder)
    with pytest.raises(DataError, match="input 2 is an empty text"):
        classifier.predict(["x", " "])
    assert repr(classifier).startswith("Classifier(FFTNetForSequenceClassification, 3 classes: 3, 10, 20; ")
    assert classifier.predict([]).shape == (0, 3)
    assert torch.equal(classifier.predict("x y"), classifier.predict(["x y"]))
    assert torch.equal(classifier.predict(np.array(["x y", "z"])), classifier.predict(iter(("x y", "z"))))
    for given, sentence in (
        (None, "inputs must be one input or a list of inputs, got NoneType"),
        ({"x": 1}, "inputs must be one input or a list of inputs, got dict"),
        (b"x", "input 1 must be a text, got bytes"),
        (["x", None], "input 2 must be a text, got NoneType"),
        (["x", ["y"]], "input 2 must be a text, got list"),
        (np.array([["x", "y"]]), "input 1 must be a text, got ndarray"),
        ([1.5], "input 1 must be a text, got float"),
    ):
        with pytest.raises(DataError, match=sentence):
            classifier.predict(given)
    with pytest.raises(ValueError, match="names must be as many as the inputs, 1, got 2"):
        classifier.predict("x", names=["a", "b"])
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        classifier.predict("x", batch_size=0)
    assert evaluate_classifier(classifier, tmp_path / "a.jsonl", whole=True)["rows"] == 30
    with pytest.raises(ValueError, match=r"data must be .* got 5"):
        evaluate_classifier(classifier, 5)  # pyright: ignore[reportArgumentType]
    (folder / "run.json").unlink()
    (folder / "manifest.json").unlink(missing_ok=True)
    bare = fftnet.load_classifier(folder)
    assert torch.equal(bare.predict(["x"]), classifier.predict(["x"]))
    with pytest.raises(DataError, match="not known what this model was trained on: name labelled data"):
        evaluate_classifier(bare)
