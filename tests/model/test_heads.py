"""A new head: a classifier of float features on the backbone, trained, saved and loaded."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fftnet import FFTNet
from fftnet.model import Backbone, BackboneConfig, PretrainedModel
from fftnet.serialization import CheckpointError


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(BackboneConfig):
    num_features: int
    num_classes: int


class Classifier(PretrainedModel):
    config_class = ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.num_features, config.d_model)
        self.backbone = Backbone(config)
        self.head = nn.Linear(config.d_model, config.num_classes)

    def forward(self, features: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(self.embed(features), attention_mask)
        weight = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * weight).sum(dim=1) / weight.sum(dim=1))


def make(causal: bool) -> Classifier:
    sizes = {"d_model": 16, "num_heads": 4, "num_layers": 2}
    return Classifier(ClassifierConfig(num_features=3, num_classes=2, causal=causal, **sizes))


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return waves of two frequencies and of different lengths, with masks and labels."""
    labels = torch.arange(32) % 2
    time = torch.arange(24)[:, None] + torch.rand(32, 1, 3) * 50
    lengths = torch.randint(12, 25, (32, 1))
    return torch.sin((0.4 + 0.8 * labels[:, None, None]) * time), torch.arange(24) < lengths, labels


@pytest.mark.parametrize("causal", [True, False])
def test_a_classifier_learns_and_is_loaded_as_it_was_saved(causal: bool, tmp_path: Path) -> None:
    model = make(causal)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    features, mask, labels = batch()
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(features, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, mask, labels = batch()
    assert (model(features, mask).argmax(dim=1) == labels).float().mean() > 0.9
    model.save_pretrained(tmp_path)
    loaded = Classifier.from_pretrained(tmp_path)
    assert (loaded.config, loaded.training) == (model.config, False)
    torch.testing.assert_close(loaded(features, mask), model.eval()(features, mask), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"is that of \['Classifier'\], not of FFTNet"):
        FFTNet.from_pretrained(tmp_path)


@torch.no_grad()
def test_features_can_be_read_in_pieces() -> None:
    model = make(causal=True).double()
    x = torch.randn(2, 11, 16, dtype=torch.float64)
    state = model.backbone.init_state(2)
    pieces = []
    for piece in x.split([4, 1, 1, 5], dim=1):
        hidden, state = model.backbone(piece, None, state)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.backbone(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"x must be of shape \(batch, tokens, 16\), got \(2, 11, 3\)"):
        model.backbone(x[..., :3])
