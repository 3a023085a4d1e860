"""Errors that a user can cause, and messages about packages that are not installed."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from fftnet.errors import UserError, install_command


class DataError(UserError, ValueError):
    """Data that can't be read or used; the message names the source and the way out."""


class TokenizerError(UserError, ValueError):
    """A tokenizer that can't be made, loaded or used; the message says why and what to do."""


class MissingPackageError(DataError, TokenizerError):
    """A package that is not installed; the message says what needs it and how to install it."""


def listed(names: Sequence[str]) -> str:
    """Return the first names of many, for a message."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, or the error's name if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def import_extra(module: str, user: str, extra: str) -> Any:
    """Import a module of an optional package; the error says that ``user`` needs it, from ``extra``."""
    try:
        return import_module(module)
    except ImportError as missing:
        package = module.partition(".")[0]
        raise MissingPackageError(f"{user} needs {package}: {install_command(extra)}") from missing
