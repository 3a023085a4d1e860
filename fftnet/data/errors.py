"""Errors that a user can cause, and what to do where a package is not installed."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from fftnet.errors import UserError, install_command


class DataError(UserError, ValueError):
    """Data can't be read or used; the message names the source and the way out."""


class TokenizerError(UserError, ValueError):
    """A tokenizer can't be made, loaded or used; the message says why and what to do."""


class MissingPackageError(DataError, TokenizerError):
    """A package is not installed; the message says what needs it and how to install it."""


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of many names, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def import_extra(module: str, user: str, extra: str) -> Any:
    """Import a module of a package that is not installed with every FFTNet.

    Args:
        module: such as ``pyarrow.parquet``.
        user: what needs it, the beginning of a sentence that goes on with "needs".
        extra: name of the optional dependencies that hold the package.

    Raises:
        MissingPackageError: with that sentence, where the package is missing.
    """
    try:
        return import_module(module)
    except ImportError as missing:
        package = module.partition(".")[0]
        raise MissingPackageError(f"{user} needs {package}: {install_command(extra)}") from missing
