"""Tasks by name; a new one is a file here and a line in the table."""

from collections.abc import Mapping
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
# Commands that write or measure text accept these only.
LANGUAGE_TASKS: dict[str, type[TextTask]] = {
    name: task for name, task in TASKS.items() if issubclass(task, TextTask)
}
"""Name to task of language models."""


def find_task(name: str, table: Mapping[str, Kind]) -> Kind:
    """Return a task of ``TASKS`` or ``LANGUAGE_TASKS``; ValueError if it is unknown."""
    if name not in table:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(table)}")
    return table[name]


def model_defaults(name: str) -> dict[str, Any]:
    """Return the fields of the backbone whose defaults differ for a task; ValueError if it is unknown."""
    return dict(getattr(find_task(name, TASKS), "model_defaults", {}))
