"""The classifier of token sequences: embedding, backbone, pooling, one linear layer."""

from dataclasses import dataclass

from torch import Tensor, nn

from fftnet.fields import documented
from fftnet.model.backbone import Backbone
from fftnet.model.checks import check_ids
from fftnet.model.components import TiedEmbedding
from fftnet.model.config import FFTNetConfig
from fftnet.model.exchange import SEQUENCE_ARCHITECTURE
from fftnet.model.heads import LAST, MEAN, check_classifier, pooled
from fftnet.model.pretrained import PretrainedModel

POOLINGS = (MEAN, LAST)


@documented
@dataclass(frozen=True, kw_only=True)
class SequenceClassifierConfig(FFTNetConfig):
    """Configuration of a classifier of texts or other sequences of ids; errors as in ``BackboneConfig``."""

    num_classes: int = 2
    """Number of classes K."""
    class_names: tuple[str, ...] = ()
    """Class names in order (empty: LABEL_0, LABEL_1, ...)."""
    pooling: str = MEAN
    """Vector that is classified: mean of all tokens, or last token, the only one that has seen the whole text
    in a causal model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classifier(self, POOLINGS)


class FFTNetForSequenceClassification(PretrainedModel):
    """Classifier of token ids without attention, causal or bidirectional, for any length."""

    config_class = SequenceClassifierConfig
    config: SequenceClassifierConfig
    other_names = (SEQUENCE_ARCHITECTURE,)
    head_prefixes = ("score.",)

    def __init__(self, config: SequenceClassifierConfig) -> None:
        super().__init__(config)
        self.embedding = TiedEmbedding(config.vocab_size, config.d_model)
        self.backbone = Backbone(config)
        self.score = nn.Linear(config.d_model, config.num_classes, bias=False)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits (B, num_classes) of int64 ids (B, T), T >= 1.

        ``attention_mask`` is boolean (B, T), False at padding, which changes no logit. Errors are those of
        ``FFTNet.forward``.
        """
        check_ids(tokens)
        return self.classify(self.backbone(self.embedding(tokens), attention_mask), attention_mask)

    def classify(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits (B, num_classes) of the backbone's hidden states (B, T, D)."""
        return self.score(pooled(hidden, self.config.pooling, attention_mask))
