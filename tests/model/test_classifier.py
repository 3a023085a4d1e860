"""The classifier of sequences: pooling against sums by hand, padding, learning, files, error messages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomise
from models import tokens

from fftnet.model import FFTNet, FFTNetConfig, FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.heads import pooled
from fftnet.serialization import CheckpointError

FORMS: list[dict[str, Any]] = [
    {"causal": True},
    {"causal": True, "pooling": "last"},
    {"causal": False},
    {"causal": False, "pooling": "last"},
    {"causal": False, "mixers": ("fnet",)},
    {"causal": False, "mixers": ("bidirectional_attention",)},
]


def config(**fields: Any) -> SequenceClassifierConfig:
    values: dict[str, Any] = {
        "vocab_size": 11,
        "num_classes": 3,
        "d_model": 16,
        "num_heads": 4,
        "num_layers": 2,
    }
    return SequenceClassifierConfig(**(values | fields))


def make(**fields: Any) -> FFTNetForSequenceClassification:
    return randomise(FFTNetForSequenceClassification(config(**fields)))


@pytest.mark.parametrize("fields", FORMS)
@pytest.mark.parametrize("length", [1, 2, 12])
def test_rows_of_several_lengths_are_as_each_alone(fields: dict[str, Any], length: int) -> None:
    """Padding on the left, on the right and on both sides."""
    model = make(**fields)
    text = tokens(1, length)
    spans = [(0, length), (4, length), (2, length), (0, 1)]
    padded = torch.full((len(spans), length + 4), 7)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    for row, (start, count) in enumerate(spans):
        padded[row, start : start + count] = text[0, :count]
        mask[row, start : start + count] = True
    together = model(padded, mask)
    for row, (_, count) in enumerate(spans):
        alone = model(text[:, :count])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model(padded), together), "the mask changes nothing"


def test_pooling_is_what_is_added_up_by_hand() -> None:
    hidden = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[False, True, True, False, False], [True, True, True, True, True]])
    mean = torch.stack([hidden[0, 1:3].mean(dim=0), hidden[1].mean(dim=0)])
    hidden[0, 4] = torch.nan
    torch.testing.assert_close(pooled(hidden, "mean", mask), mean)
    assert torch.equal(pooled(hidden, "last", mask), torch.stack([hidden[0, 2], hidden[1, 4]]))
    assert torch.equal(pooled(hidden, "class_token", mask), hidden[:, 0])
    nothing = torch.zeros_like(mask)
    assert torch.equal(pooled(hidden, "mean", nothing), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("causal", [False, True])
def test_the_default_is_the_mean(causal: bool) -> None:
    model = make(causal=causal)
    hidden = model.backbone(model.embedding(tokens(2, 7)))
    torch.testing.assert_close(model(tokens(2, 7)), model.score(hidden.mean(dim=1)))


@pytest.mark.parametrize("fields", FORMS)
def test_it_learns_and_is_loaded_as_it_was_saved(fields: dict[str, Any], tmp_path: Path) -> None:
    model = FFTNetForSequenceClassification(config(class_names=("none", "one", "many"), **fields))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    text = tokens(64, 8)
    labels = (text == 3).sum(dim=1).clamp(max=2)
    loss = torch.empty(())
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(text), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    model.save_pretrained(tmp_path)
    again = FFTNetForSequenceClassification.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.config.class_names == ("none", "one", "many")
    assert torch.equal(again(text), model.eval()(text))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'; choose from mean, last"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"class_names": ("a", "b")}, "2 names for num_classes=3"),
        ({"class_names": ("a", "b", "a")}, "'a' more than once"),
    ],
)
def test_wrong_configurations_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)
    assert config().class_names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_other_models_and_unordered_labels_are_refused(tmp_path: Path) -> None:
    FFTNet(FFTNetConfig(vocab_size=11, d_model=16)).save_pretrained(tmp_path / "language")
    with pytest.raises(CheckpointError, match="FFTNetForCausalLM"):
        FFTNetForSequenceClassification.from_pretrained(tmp_path / "language")
    make().save_pretrained(tmp_path / "labels")
    with pytest.raises(CheckpointError, match="FFTNetForSequenceClassification"):
        FFTNet.from_pretrained(tmp_path / "labels")
    path = tmp_path / "labels" / "config.json"
    path.write_text(path.read_text().replace('"0": "LABEL_0"', '"5": "LABEL_0"'))
    with pytest.raises(CheckpointError, match="id2label does not number"):
        FFTNetForSequenceClassification.from_pretrained(tmp_path / "labels")


def test_wrong_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens must be int64 ids"):
        make()(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least one token, got a sequence of length 0"):
        make()(torch.zeros(1, 0, dtype=torch.int64))
