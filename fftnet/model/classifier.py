"""A class of a whole sequence of tokens: embedding, backbone, pooling, one linear layer."""

from dataclasses import dataclass

from torch import Tensor, nn

from fftnet.fields import MAX_SIZE, check_range, documented
from fftnet.model.backbone import Backbone
from fftnet.model.checks import check_ids
from fftnet.model.components import TiedEmbedding
from fftnet.model.config import FFTNetConfig
from fftnet.model.exchange import SEQUENCE_ARCHITECTURE
from fftnet.model.labels import check_class_names
from fftnet.model.pooling import LAST, MEAN, pooled
from fftnet.model.pretrained import PretrainedModel

POOLINGS = (MEAN, LAST)


@documented
@dataclass(frozen=True, kw_only=True)
class SequenceClassifierConfig(FFTNetConfig):
    """A classifier of texts, or of any other sequence of ids.

    Raises:
        ValueError: if a field is out of range, the pooling is unknown, or names and classes do not go
            together.
    """

    num_classes: int = 2
    """Classes K that are told apart."""
    class_names: tuple[str, ...] = ()
    """Their names in order (empty: LABEL_0, LABEL_1, ...)."""
    pooling: str = MEAN
    """What is classified: mean, of all tokens, or last, which of a causal model alone has seen the whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, MAX_SIZE, "num_classes")
        object.__setattr__(self, "class_names", check_class_names(self.class_names, self.num_classes))
        if self.pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {self.pooling!r}; choose from {', '.join(POOLINGS)}")


class FFTNetForSequenceClassification(PretrainedModel):
    """Token ids to classes, without attention; causal or bidirectional, of any length.

    Args:
        config: sizes, form, mixers, classes and pooling.
    """

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
        """Logits (B, num_classes) of int64 ids (B, T), T >= 1, of any length.

        Args:
            tokens: ids.
            attention_mask: boolean (B, T), False at padding, on which nothing depends.

        Raises:
            ValueError: on an empty sequence, ids that are not int64 or on a CPU not in the vocabulary, or
                shapes that do not belong together.
        """
        check_ids(tokens)
        return self.classify(self.backbone(self.embedding(tokens), attention_mask), attention_mask)

    def classify(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes) of the backbone's hidden states (B, T, D), pooled."""
        return self.score(pooled(hidden, self.config.pooling, attention_mask))
