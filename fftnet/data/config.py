"""Configuration of the data of a run, and the three streams of batches that are made of them."""

from dataclasses import dataclass, field

from fftnet.data.encodings import MAX_RANK
from fftnet.data.sources import SYNTHETIC, describe_sources, find_source
from fftnet.fields import check_fields, check_range, documented
from fftnet.protocols import Batches

MAX_ROWS = 2**20
"""Largest batch size and number of consecutive windows: far above every use."""


@dataclass(frozen=True)
class Splits:
    """Three streams of batches that share nothing."""

    train: Batches
    valid: Batches
    test: Batches
    entropy_floor: float | None = None
    """Entropy of the validation split in nats per token, a lower bound of the loss; None if unknown."""
    digest: str | None = None
    """Digest of the content of all three, see ``fftnet.data.files``; None: generated samples, or unknown."""


@documented
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sources of data, and their division into splits and batches.

    Raises:
        ValueError: if a field is out of range.
    """

    data: list[str] = field(
        default_factory=lambda: [SYNTHETIC], metadata={"placeholder": ("SOURCES", describe_sources)}
    )
    """Sources: a list of files, folders, globs and names, or one of them as a string: SOURCES."""
    text_field: str = "text"
    """Column that holds the text, in sources that have columns."""
    tokenizer: str = "bytes"
    """bytes, bpe (trained on the data), a path to a .tiktoken file or a checkpoint, or gpt2, cl100k_base,
    o200k_base."""
    vocab_size: int = 2048
    """Vocabulary size of the bpe tokenizer, the 256 bytes and the end of text included."""
    num_samples: int = 1000
    """Synthetic samples in an epoch; every epoch draws new ones, so that none can be memorized."""
    pattern_complexity: float = 0.5
    """Difficulty of the synthetic grammar, in [0, 1]."""
    batch_size: int = 16
    """Rows in a batch."""
    valid_fraction: float = 0.05
    """Fraction of the text held out for validation."""
    test_fraction: float = 0.05
    """Fraction of the text held out for the final test."""
    data_seed: int = 0
    """Seed of the splits, of the order of training windows and of the synthetic samples."""
    reset_at_documents: bool = False
    """Start every document in a new row with a fresh state; else rows continue over the ends of documents."""
    carry_state: int = 0
    """Number of consecutive windows of the same text that a training row reads, one a step, each from the
    state of the last one without its gradient (truncated backpropagation); 0: every window starts afresh."""
    in_memory_mb: float = 32.0
    """Megabytes of text that are tokenized in memory; a larger text is tokenized once, into cache_dir. The
    results are the same."""
    cache_dir: str | None = None
    """Folder of tokenized text (default: fftnet in the user's cache folder, see XDG_CACHE_HOME)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_ROWS, "batch_size")
        check_range(self, 0, MAX_ROWS, "carry_state")
        check_range(self, 1, 2**30, "num_samples")
        check_range(self, 1, MAX_RANK, "vocab_size")
        check_range(self, 0, None, "data_seed", "in_memory_mb")
        if not self.data:
            raise ValueError("data must name at least one source, such as synthetic or a text file")
        for word in self.data:
            if len(self.data) > 1 and find_source(word).alone:
                raise ValueError(f"{word} can't be mixed with other sources: name one or the other")
        if self.carry_state and self.synthetic:
            raise ValueError("carry_state needs text: synthetic samples fit a window, name a text with data")
        if self.carry_state and self.reset_at_documents:
            raise ValueError("carry_state reads on over the ends of documents: leave out reset_at_documents")
        if not 0.0 <= self.pattern_complexity <= 1.0:
            raise ValueError(f"pattern_complexity must lie in [0, 1], got {self.pattern_complexity}")
        held_out = self.valid_fraction + self.test_fraction
        if min(self.valid_fraction, self.test_fraction) <= 0 or held_out >= 0.9:
            raise ValueError("valid_fraction and test_fraction must be above 0 and below 0.9 together")

    @property
    def synthetic(self) -> bool:
        """True if the data are generated samples instead of documents."""
        return self.data == [SYNTHETIC]
