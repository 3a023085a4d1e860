"""Classification of whole texts: mean pooling over the backbone, cross-entropy of one label a text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from fftnet.data.labels import load_labels
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.model.backbone import Backbone
from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.pretrained import PretrainedModel
from fftnet.protocols import Batch, Losses, Mean

CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(FFTNetConfig):
    """A classifier of texts."""

    num_classes: int = CLASSES
    """Classes that are told apart."""


class Classifier(PretrainedModel):
    """Embedding, backbone, mean over the tokens, one linear layer."""

    config_class = ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.backbone = Backbone(config)
        self.head = nn.Linear(config.d_model, config.num_classes)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, classes)."""
        hidden = self.backbone(self.embedding(tokens), attention_mask)
        weight = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * weight).sum(dim=1) / weight.sum(dim=1))


class Classification:
    """One label a text."""

    unit = "texts"
    load_splits = staticmethod(load_labels)

    def __init__(self, token_bytes: Sequence[int] | None = None) -> None:
        pass

    @staticmethod
    def model_vocab_size(vocab_size: int) -> int:
        """Ids of the model."""
        return vocab_size

    @staticmethod
    def build_model(config: BackboneConfig, vocab_size: int) -> Classifier:
        """A classifier of these sizes."""
        return Classifier(ClassifierConfig(vocab_size=vocab_size, **asdict(config)))

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Cross-entropy and accuracy."""
        mask = batch.attention_mask
        if mask is None:
            mask = torch.ones_like(batch.inputs, dtype=torch.bool)
        logits = model(batch.inputs, mask)
        each = F.cross_entropy(logits, batch.targets, reduction="none") * batch.loss_mask
        correct = (logits.argmax(dim=-1) == batch.targets) & batch.loss_mask
        count = batch.loss_mask.sum()
        return Losses(each.sum(), count, {"accuracy": Mean(correct.sum(), count)})
