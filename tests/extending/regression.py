"""Regression on texts: mean of the hidden states, a linear layer, squared errors."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fftnet.data.numbers import load_numbers
from torch import Tensor, nn

from fftnet.model.backbone import Backbone
from fftnet.model.config import FFTNetConfig
from fftnet.model.heads import MEAN, pooled
from fftnet.model.pretrained import PretrainedModel
from fftnet.protocols import Batch, Losses, Mean
from fftnet.tasks.base import Prepared, Request
from fftnet.utils.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """Settings of the regression."""

    number_field: str = "number"
    """Column that holds the number."""


class Regressor(PretrainedModel):
    """Embedding, backbone, mean over the tokens, one linear layer."""

    config_class = FFTNetConfig

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.backbone = Backbone(config)
        self.head = nn.Linear(config.d_model, 1)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return numbers (B,)."""
        hidden = self.backbone(self.embedding(tokens), attention_mask)
        return self.head(pooled(hidden, MEAN, attention_mask))[:, 0]


class Regression:
    """One number per text."""

    Config: ClassVar[type[Any]] = RegressionConfig
    unit = "texts"

    @staticmethod
    def prepare(request: Request) -> Prepared:
        """Load the data and return a model of the requested sizes."""
        tokenizer = load_tokenizer(request.data.tokenizer)
        splits = load_numbers(request.data, request.settings.number_field, tokenizer)
        config = FFTNetConfig(vocab_size=tokenizer.vocab_size, **asdict(request.model))
        return Prepared(lambda: Regressor(config), Regression(), splits, tokenizer)

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the squared errors, and the mean absolute error as a metric."""
        error = (model(batch.inputs, batch.attention_mask) - batch.targets) * batch.loss_mask
        count = batch.loss_mask.sum()
        return Losses(error.square().sum(), count, {"mean_error": Mean(error.detach().abs().sum(), count)})
