"""A native classifier's folder in Transformers and back: logits, names of classes, the pipeline's labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomise
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import fftnet
import fftnet.hf as hf
from fftnet.model import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.utils.tokenizer import load_tokenizer

NAMES = ("good", "bad", "so so")
TEXTS = ["what a film", "I", "money back, please: this was the worst evening", "naïve, but fine"]


def native(folder: Path, **fields: Any) -> FFTNetForSequenceClassification:
    """Return a classifier after saving it in a folder, as training does."""
    config = SequenceClassifierConfig(
        vocab_size=257, d_model=16, num_heads=4, num_layers=2, num_classes=3, class_names=NAMES, **fields
    )
    model = randomise(FFTNetForSequenceClassification(config)).float()
    # So that the answer depends on the text, not on the biases alone.
    model.embedding.weight.data *= 10
    model.save_pretrained(folder)
    load_tokenizer("bytes").save(folder)
    return model


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@torch.no_grad()
def test_both_sides_compute_and_name_the_same_and_back(causal: bool, pooling: str, tmp_path: Path) -> None:
    model = native(tmp_path / "native", causal=causal, pooling=pooling)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "native").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "native")
    assert type(theirs) is hf.FFTNetForSequenceClassification
    assert theirs.config.id2label == dict(enumerate(NAMES))
    assert theirs.config.label2id == {name: number for number, name in enumerate(NAMES)}
    for parameter in theirs.parameters():
        # Where weights lie in a file decides how matrix products round; see hf_models.both.
        parameter.data = parameter.data.clone()
    for text in TEXTS:
        given = tokenizer(text, return_tensors="pt")
        expected = model(torch.tensor([list(text.encode())]))
        assert torch.equal(theirs(**given, use_cache=False).logits, expected)
    # Padding stands on the left there and on the right here.
    together = theirs(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(dim=1)
    classifier = fftnet.load_classifier(tmp_path / "native", device="cpu")
    torch.testing.assert_close(classifier.predict(TEXTS), together, rtol=1e-4, atol=1e-6)
    theirs.save_pretrained(tmp_path / "library")
    tokenizer.save_pretrained(tmp_path / "library")
    again = FFTNetForSequenceClassification.from_pretrained(tmp_path / "library")
    assert again.config == model.config
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    back = fftnet.load_classifier(tmp_path / "library", device="cpu")
    assert back.class_names == NAMES
    torch.testing.assert_close(back.predict(TEXTS), together, rtol=1e-4, atol=1e-6)


def test_the_pipeline_gives_the_label_that_predict_gives(tmp_path: Path) -> None:
    native(tmp_path, causal=False)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    texts = [*TEXTS, *"abcdefgh", "B", "C"]
    found = classify(texts, batch_size=2)
    probabilities = fftnet.load_classifier(tmp_path, device="cpu").predict(texts)
    labels = [NAMES[int(row.argmax())] for row in probabilities]
    assert [answer["label"] for answer in found] == labels
    scores = [answer["score"] for answer in found]
    assert scores == pytest.approx(probabilities.amax(dim=1).tolist(), rel=1e-4)
    assert len(set(labels)) > 1
