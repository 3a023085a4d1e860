"""Checks of configuration fields that several kinds of configuration share."""

import os
from numbers import Real
from operator import index
from typing import Any, SupportsIndex


def string_list(name: str, value: object) -> list[str]:
    """Return a list field as strings; a single string or path becomes a list of one.

    Args:
        name: name of the field, for the message.
        value: a string, a path, or a list or tuple of them.

    Raises:
        ValueError: if it is anything else.
    """
    items = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(i, (str, os.PathLike)) for i in items):
        raise ValueError(f"{name} must be a string or a list of strings, got {value!r}")
    return [os.fspath(item) for item in items]


def check_strings(config: Any, *names: str, optional: bool = False) -> None:
    """Refuse fields that are not strings, and turn paths into strings.

    Args:
        config: configuration with the fields.
        names: names of the fields.
        optional: let None pass.

    Raises:
        ValueError: naming the field and its value.
    """
    for name in names:
        value = getattr(config, name)
        if value is None and optional:
            continue
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"{name} must be a string, got {value!r}")
        object.__setattr__(config, name, os.fspath(value))


def check_whole(config: Any, least: int, most: int, *names: str) -> None:
    """Refuse fields that are not whole numbers from ``least`` to ``most``.

    Raises:
        ValueError: naming the field and its value.
    """
    for name in names:
        value = getattr(config, name)
        is_whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
        if not is_whole or not least <= index(value) <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
        object.__setattr__(config, name, index(value))


def check_numbers(config: Any, *names: str) -> None:
    """Refuse fields that are not numbers, NaN among them.

    Raises:
        ValueError: naming the field and its value.
    """
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Real) or value != value:
            raise ValueError(f"{name} must be a number, got {value!r}")
