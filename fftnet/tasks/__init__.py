"""The table of training objectives. A new one is a file here and a line in the table."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from fftnet.model.config import BackboneConfig
from fftnet.model.pretrained import PretrainedModel
from fftnet.protocols import Batch, Losses, TextEncoder
from fftnet.tasks.masked_token import MaskedToken
from fftnet.tasks.next_token import NextToken
from fftnet.utils.dataset import DataConfig, Splits


class Task(Protocol):
    """An objective with the model and the data that belong to it."""

    unit: str
    """Name of the things that are counted, in the plural: tokens, texts, images."""

    def __init__(self, token_bytes: Sequence[int] | None = None) -> None:
        """Bytes of text that each id of the tokenizer stands for, for metrics that need them."""
        ...

    @staticmethod
    def model_vocab_size(vocab_size: int) -> int:
        """Ids of the model where the tokenizer has ``vocab_size`` of them."""
        ...

    @staticmethod
    def build_model(config: BackboneConfig, vocab_size: int) -> PretrainedModel:
        """The model that is trained, for a tokenizer of ``vocab_size`` ids; ValueError where it can't be."""
        ...

    @staticmethod
    def load_splits(config: DataConfig, tokenizer: TextEncoder, max_seq_length: int) -> Splits:
        """The data in batches that this objective takes."""
        ...

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses and metrics of a batch."""
        ...


TASKS: dict[str, type[Task]] = {
    "next_token": NextToken,
    "masked_token": MaskedToken,
}
"""Name to objective."""


def task_class(name: str) -> type[Task]:
    """The task of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]
