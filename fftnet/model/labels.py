"""Names of classes in a configuration, and in ``config.json``, where Transformers keeps them, too."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fftnet.fields import string_list

FIELDS = ("num_classes", "class_names")
"""Fields of a native configuration for which the file has ``id2label`` and ``label2id``."""


def default_name(index: int) -> str:
    """The name of a class that was given none, as Transformers calls it."""
    return f"LABEL_{index}"


def check_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """All names, or those that classes have which were given none.

    Raises:
        ValueError: if they are not strings, there are not as many names as classes, or two are equal.
    """
    names = string_list("class_names", names)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise ValueError("class_names holds a lone surrogate, which cannot be printed: remove it") from error
    if not names:
        return tuple(default_name(index) for index in range(num_classes))
    if len(names) != num_classes:
        raise ValueError(f"class_names has {len(names)} names for num_classes={num_classes}")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"class_names has {twice!r} more than once")
    return tuple(names)


def to_file(values: dict[str, Any]) -> dict[str, Any]:
    """What ``config.json`` holds for these fields of a native configuration."""
    if "class_names" not in values:
        return values
    names = values["class_names"]
    kept = {name: value for name, value in values.items() if name not in FIELDS}
    return kept | {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def from_file(values: dict[str, Any]) -> dict[str, Any]:
    """The other way: the file's fields, with native ones for its labels, if it has any.

    Raises:
        ValueError: if its classes are not numbered from 0.
    """
    found = values.get("id2label")
    if found is None:
        return values
    try:
        names = tuple(str(found[str(index)]) for index in range(len(found)))
    except (KeyError, TypeError) as error:
        raise ValueError("its id2label does not number the classes from 0") from error
    return values | {"num_classes": len(names), "class_names": names}
