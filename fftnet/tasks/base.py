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
    """Settings of a task that has none of its own."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a task is handed: the configurations of a run that concern it."""

    model: BackboneConfig
    """Sizes of the layers."""
    data: DataConfig
    """Which data are read, and how they are divided."""
    settings: Any
    """An instance of the task's ``Config``."""


def no_files(folder: Path) -> None:
    """Write nothing into a checkpoint."""


class Prepared(NamedTuple):
    """What training needs of a task."""

    build_model: Callable[[], PretrainedModel]
    """Called once, when the seed is set."""
    objective: Objective
    """Losses of a batch; its attribute ``unit``, where it has one, names what is counted: tokens, images."""
    splits: Splits
    tokenizer: Tokenizer | None
    """Saved with the model; None: the task reads no text."""
    save_files: Callable[[Path], None] = no_files
    """Writes what else belongs into a checkpoint, into the folder it is given."""
    measure_test: bool = False
    """Measure the test split, once, when training has ended."""


class Task(Protocol):
    """A kind of training: what is learned, by which model, from which data."""

    Config: ClassVar[type[Any]]
    """Frozen dataclass of the task's own settings, all with defaults; as flags, ``--TASK.field``."""

    @staticmethod
    def prepare(request: Request) -> Prepared:
        """Read the data and make everything but the model.

        Raises:
            ValueError: if model, settings and data do not fit together.
            DataError: if the data can't be read or used.
        """
        ...


class Inputs(NamedTuple):
    """Inputs of a file, one at least."""

    names: list[str]
    """Where each is from, for messages."""
    values: list[Any]
    """What ``Classifier.predict`` takes."""
    columns: list[dict[str, Any]]
    """What an answer repeats of each: the columns of its row, or the name of its file."""
