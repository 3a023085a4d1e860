"""Fields of configuration classes: their docstrings at run time, types, finite numbers and ranges."""

import ast
import inspect
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from textwrap import dedent, indent
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

MAX_SIZE = 2**20
"""Largest width, number of bins or number of classes of a model."""
MAX_VOCAB_SIZE = 2**24
"""Largest vocabulary; also the largest hidden width."""
MAX_SIDE = 2**13
"""Largest side of an image, in pixels."""
MAX_COUNT = 2**53
"""Largest number of tokens or steps: up to here, every integer is exact in float64."""
_NAMES = {
    # Nouns for error messages.
    int: "a whole number of 64 bits",
    float: "a finite number",
    str: "a string",
    bool: "True or False",
    dict: "a dictionary",
    NoneType: "None",
}

ConfigClass = TypeVar("ConfigClass", bound=type)


def documented(config_class: ConfigClass) -> ConfigClass:
    """Append the docstrings of a dataclass's fields to its ``__doc__``, which ``help`` and flags show.

    The metadata of a field may hold ``placeholder``: a word of its docstring, and a function that returns the
    text to put there.
    """
    if not isinstance(vars(config_class)["__doc__"], _Docstring):
        config_class.__doc__ = _Docstring(config_class.__doc__)  # pyright: ignore[reportAttributeAccessIssue]
    return config_class


class _Docstring:
    """A ``__doc__`` that reads the source when it is shown, so that imports do not pay for it."""

    def __init__(self, summary: str | None) -> None:
        self._summary = inspect.cleandoc(summary or "")

    def __get__(self, instance: object, owner: type) -> str:
        entries = [
            f"{name}: {indent(text, '    ').lstrip()}" for name, text in field_docstrings(owner).items()
        ]
        if not entries:
            return self._summary
        return "\n".join([self._summary, "", "Attributes:", indent("\n".join(entries), "    ")])


@cache
def field_docstrings(config_class: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass by name, inherited fields included.

    Python keeps no docstrings of attributes, so that they are read from the source. Fields whose source is
    unavailable are missing.
    """
    found: dict[str, str] = {}
    # Bases first: a class may document an inherited field anew.
    for base in reversed(config_class.__mro__):
        # Classes made at run time and builtins have no source; zip archives and compiled packages may not.
        try:
            (definition,) = ast.parse(dedent(inspect.getsource(base))).body
        except (OSError, TypeError, SyntaxError):
            continue
        # The docstring of a field is the string in the statement after it.
        for pair in pairwise(getattr(definition, "body", ())):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    docstrings = {}
    for field in fields(config_class):
        if field.name in found:
            word, replacement = field.metadata.get("placeholder", ("", str))
            text = found[field.name]
            docstrings[field.name] = text.replace(word, replacement()) if word else text
    return docstrings


def check_fields(config: Any) -> None:
    """Refuse fields of another type than the declared one, and numbers that are not finite.

    Neither a boolean nor 2.0 passes for an integer; an integer passes for a float. A single string or path
    becomes a list of one, a list becomes a tuple, a number of NumPy becomes Python's.

    A string must be one of the ``choices`` in the metadata of its field, a function that returns them. The
    dataclass may be frozen. The ValueError names the field, what is allowed and the value.
    """
    for name, kind in _kinds(type(config)).items():
        given = getattr(config, name)
        value = _converted(name, given, kind)
        if not _fits(value, kind):
            allowed = " or ".join(_described(choice) for choice in _choices(kind))
            raise ValueError(f"{name} must be {allowed}, got {_shown(given)}")
        # Choices are a function because tables, such as that of mixers, are defined after the classes.
        choices = config.__dataclass_fields__[name].metadata.get("choices")
        if choices is not None and isinstance(value, str) and value not in choices():
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices())}")
        # Configurations are frozen.
        if value is not given:
            object.__setattr__(config, name, value)


def check_range(config: Any, least: float, most: float | None, *names: str) -> None:
    """Refuse fields below ``least`` or above ``most`` (None: no upper limit); a field of None passes.

    The dataclass must have passed ``check_fields``. The ValueError names the field, the limit and the value.
    """
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if value < least:
            limit = "0 or more" if least == 0 else f"at least {least:g}"
        elif most is not None and value > most:
            limit = f"at most {most}"
        else:
            continue
        # Users can leave out an optional field.
        optional = NoneType in _choices(_kinds(type(config))[name])
        raise ValueError(f"{name} must be {limit}{' or left out' * optional}, got {value}")


def check_positive(config: Any, *names: str) -> None:
    """Refuse fields of 0 or below, see ``check_range``; a field of None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_config(name: str, value: object, kind: type) -> None:
    """Refuse a configuration that is not of its class, such as a dictionary, with a ValueError."""
    if not isinstance(value, kind):
        fields = "**values" if isinstance(value, dict) else "..."
        given = f"{_shown(value)}: use {kind.__name__}({fields})"
        raise ValueError(f"{name} must be of class {kind.__name__}, got {given}")


def string_list(name: str, value: object) -> list[str]:
    """Return a list field as strings; a single string or path becomes a list of one.

    A ValueError that names the field refuses anything else.
    """
    items = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(i, (str, os.PathLike)) for i in items):
        raise ValueError(f"{name} must be a string or a list of strings, got {_shown(value)}")
    return [os.fspath(item) for item in items]


@cache
def _kinds(config_class: type) -> dict[str, Any]:
    hints = get_type_hints(config_class)
    return {field.name: hints[field.name] for field in fields(config_class)}


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _converted(name: str, value: Any, kind: Any) -> Any:
    origin = get_origin(kind)
    if origin in (list, tuple):
        # A single string would otherwise become a list of its letters.
        if get_args(kind)[0] is str:
            value = string_list(name, value)
        return origin(value) if isinstance(value, (list, tuple)) else value
    if isinstance(value, os.PathLike) and str in _choices(kind):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if len(_choices(kind)) > 1:
        return any(_fits(value, choice) for choice in _choices(kind))
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        # An integer of 64 bits fits into every tensor; a larger one makes isfinite raise.
        return number and (abs(int(value)) < 2**63 if isinstance(value, Integral) else math.isfinite(value))
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values())
    return isinstance(value, kind)


def _described(kind: Any) -> str:
    origin = get_origin(kind) or kind
    return _NAMES.get(origin) or f"a {'list of numbers' if origin in (list, tuple) else origin.__name__}"


def _shown(value: object) -> str:
    """Return a wrong value for a message, at most 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
