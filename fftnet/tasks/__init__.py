"""The table of tasks. A new one is a file here and a line in the table."""

from typing import Any, TypeVar

from fftnet.tasks.base import Task
from fftnet.tasks.classification import Classification
from fftnet.tasks.image_classification import ImageClassification
from fftnet.tasks.masked_token import MaskedToken
from fftnet.tasks.next_token import NextToken
from fftnet.tasks.text import TextTask

Kind = TypeVar("Kind")

TASKS: dict[str, type[Task]] = {
    "next_token": NextToken,
    "masked_token": MaskedToken,
    "classification": Classification,
    "image_classification": ImageClassification,
}
"""Name to task."""
LANGUAGE_TASKS: dict[str, type[TextTask]] = {
    name: task for name, task in TASKS.items() if issubclass(task, TextTask)
}
"""Those of language models."""


def task_class(name: str) -> type[Task]:
    """The task of that name.

    Raises:
        ValueError: if there is none.
    """
    return _found(name, TASKS)


def model_defaults(name: str) -> dict[str, Any]:
    """Fields of the backbone whose defaults are others where they are flags beside this task.

    Raises:
        ValueError: if there is no such task.
    """
    return dict(getattr(task_class(name), "model_defaults", {}))


def language_task(name: str) -> type[TextTask]:
    """The task of that name that trains language models.

    Raises:
        ValueError: if there is none.
    """
    return _found(name, LANGUAGE_TASKS)


def _found(name: str, table: dict[str, Kind]) -> Kind:
    if name not in table:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(table)}")
    return table[name]
