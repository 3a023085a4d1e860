"""The classifier of sequences: pooling against a sum by hand, padding, learning, files, sentences."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomise
from torch import Tensor

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
SIZES = SequenceClassifierConfig(vocab_size=11, d_model=16, num_heads=4, num_layers=2, num_classes=3)


def make(**fields: Any) -> FFTNetForSequenceClassification:
    config = SequenceClassifierConfig(
        vocab_size=11, d_model=16, num_heads=4, num_layers=2, num_classes=3, **fields
    )
    return randomise(FFTNetForSequenceClassification(config))


def ids(rows: int, length: int) -> Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("fields", FORMS)
@pytest.mark.parametrize("length", [1, 2, 7, 12, 31])
def test_padding_on_either_side_changes_nothing(fields: dict[str, Any], length: int) -> None:
    model = make(**fields)
    tokens = ids(2, length)
    alone = model(tokens)
    for left, right in ((0, 3), (2, 0), (1, 4)):
        padded = torch.full((2, left + length + right), 7)
        mask = torch.zeros_like(padded, dtype=torch.bool)
        padded[:, left : left + length] = tokens
        mask[:, left : left + length] = True
        torch.testing.assert_close(model(padded, mask), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fields", FORMS)
def test_rows_of_several_lengths_are_as_each_alone(fields: dict[str, Any]) -> None:
    model = make(**fields)
    tokens = ids(3, 9)
    mask = torch.arange(9) < torch.tensor([[9], [1], [4]])
    together = model(tokens, mask)
    for row, length in enumerate((9, 1, 4)):
        alone = model(tokens[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model(tokens)[1:], together[1:])


def test_pooling_is_what_is_added_up_by_hand() -> None:
    hidden = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[False, True, True, False, False], [True, True, True, True, True]])
    mean = torch.stack([hidden[0, 1:3].mean(dim=0), hidden[1].mean(dim=0)])
    torch.testing.assert_close(pooled(hidden, "mean", mask), mean)
    assert torch.equal(pooled(hidden, "last", mask), torch.stack([hidden[0, 2], hidden[1, 4]]))
    assert torch.equal(pooled(hidden, "class_token", mask), hidden[:, 0])
    hidden[0, 4] = torch.nan
    torch.testing.assert_close(pooled(hidden, "mean", mask), mean)
    nothing = torch.zeros_like(mask)
    assert torch.equal(pooled(hidden, "mean", nothing), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("causal", [False, True])
def test_the_mean_is_classified_unless_told_otherwise(causal: bool) -> None:
    model = make(causal=causal)
    tokens = ids(2, 7)
    hidden = model.backbone(model.embedding(tokens))
    torch.testing.assert_close(model(tokens), model.score(hidden.mean(dim=1)))


@pytest.mark.parametrize("fields", FORMS)
def test_it_learns_and_is_loaded_as_it_was_saved(fields: dict[str, Any], tmp_path: Path) -> None:
    model = FFTNetForSequenceClassification(
        replace(make(**fields).config, class_names=("none", "one", "many"))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = ids(64, 8)
    labels = (tokens == 3).sum(dim=1).clamp(max=2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # pyright: ignore[reportPossiblyUnboundVariable]
    model.save_pretrained(tmp_path)
    again = FFTNetForSequenceClassification.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.config.class_names == ("none", "one", "many")
    assert torch.equal(again(tokens), model.eval()(tokens))


def test_names_are_given_to_classes_without_any() -> None:
    assert SIZES.class_names == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'; choose from mean, last"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"class_names": ("a", "b")}, "2 names for num_classes=3"),
        ({"class_names": ("a", "b", "a")}, "'a' more than once"),
    ],
)
def test_bad_configurations_are_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SIZES, **fields)


def test_another_kind_of_model_and_a_file_without_order_are_refused(tmp_path: Path) -> None:
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


def test_ids_and_rows_that_can_not_be() -> None:
    model = make()
    with pytest.raises(ValueError, match="int64"):
        model(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"length 0|at least one|T >= 1|empty"):
        model(torch.zeros(1, 0, dtype=torch.int64))
