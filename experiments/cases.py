"""Settings of the cases of the classification experiments."""

from dataclasses import dataclass

from experiments.training import FP32, Budget
from fftnet.model.heads import MEAN


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Data that are trained on before those of the case."""

    data: str
    """A name in the table of sequences, whose training rows are taken."""
    steps: int
    """For how long."""
    rows: int
    """Rows of a batch."""


@dataclass(frozen=True, kw_only=True)
class CaseSettings:
    """A data set, the models on it and their training."""

    data: str
    """A name in the table of sequences."""
    sizes: tuple[int, int, int] | None = None
    """Rows of training, validation and test (None: as published)."""
    d_model: int = 64
    """Width D."""
    num_layers: int = 4
    """Blocks of mixer and feed-forward."""
    num_heads: int = 4
    """Heads H."""
    parameters: int = 250_000
    """Of the whole model, met by the width of the feed-forward."""
    patch_size: int = 0
    """Pixels of a side of the patches that an image is read in; 0: its ids one by one."""
    num_anchors: int | None = None
    """Frequencies at which the paper's layer holds its filter (None: the package's default)."""
    pairs: bool = False
    """Rows are two texts around a separator: each is encoded alone, then both are compared."""
    pooling: str = MEAN
    """Which hidden states are classified, of all arms alike: their mean, or the last one."""
    dropout: float = 0.1
    """Probability of dropping a value in training."""
    rows: int = 32
    """Rows of a batch."""
    stages: tuple[Stage, ...] = ()
    """What is trained on before, as part of the budget: the same with shorter rows, say."""
    augment: bool = False
    """Move and mirror training images at random."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes in training."""
    reading_share: float = 0.0
    """Share of the steps in which the training rows are only read: the next token is learned in causal arms,
    masked tokens in the others; afterwards that goes on beside the classes (0: classes alone)."""
    curve_rows: int = 500
    """Validation rows that a point of the curve is measured on."""
    precision: str = FP32
    """Of the matrix products of training."""
    budget: Budget
    """Of training."""
