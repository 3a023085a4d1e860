"""The contract of tasks: from the configurations of a run to a model, an objective and data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from fftnet.model.config import BackboneConfig
from fftnet.model.pretrained import PretrainedModel
from fftnet.protocols import Objective
from fftnet.utils.dataset import DataConfig, Splits
from fftnet.utils.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Settings of a task without any."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The configurations of a run that a task needs."""

    model: BackboneConfig
    """Sizes of the layers."""
    data: DataConfig
    """Sources of the data, and their division."""
    settings: Any
    """An instance of the task's ``Config``."""


class Prepared(NamedTuple):
    """Everything that training needs from a task."""

    build_model: Callable[[], PretrainedModel]
    """Function that is called once, after the seed is set."""
    objective: Objective
    """Losses of a batch; its optional attribute ``unit`` names the counted targets: tokens, images."""
    splits: Splits
    tokenizer: Tokenizer | None
    """Tokenizer that is saved with the model; None: the task reads no text."""
    save_files: Callable[[Path], None] = lambda folder: None
    """Function that writes further files of a checkpoint into a folder."""
    measure_test: bool = False
    """Measure the test split once after training."""


class Task(Protocol):
    """A kind of training: an objective with its model and data."""

    Config: ClassVar[type[Any]]
    """Frozen dataclass of the task's settings, all with defaults; their flags are ``--TASK.field``."""

    @staticmethod
    def prepare(request: Request) -> Prepared:
        """Read the data and make everything but the model.

        Raises:
            ValueError: if model, settings and data do not fit together.
            DataError: if the data can't be read or used.
        """
        ...
