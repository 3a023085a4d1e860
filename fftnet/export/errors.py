"""What a user can mend when a model is exported, or an exported one is run."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fftnet.errors import UserError, install_command
from fftnet.serialization import is_full


class ExportError(UserError, ValueError):
    """A model can't be exported, or an exported one can't be run; the message says why and the way out."""


def import_onnx(module: str) -> Any:
    """Import a module of the extra ``onnx``.

    Raises:
        ExportError: naming the extra, where the package is missing.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed: {install_command('onnx')}") from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into ``folder`` into an ``ExportError`` that names it and the way out."""
    try:
        yield
    except OSError as error:
        cure = "free some space" if is_full(error) else "choose another --output"
        raise ExportError(f"{folder} could not be written ({error.strerror or error}): {cure}") from error
