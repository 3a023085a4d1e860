"""Configuration and errors of an export."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fftnet.errors import UserError, install_command
from fftnet.fields import MAX_SIZE, check_fields, check_range, documented
from fftnet.serialization import is_full


@documented
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Configuration of ``fftnet export``.

    Raises:
        ValueError: if a field is out of range.
    """

    format: str = "onnx"
    """Format of the files: onnx."""
    output: str = "exported"
    """Folder to write into; it is created if missing."""
    block_length: int = 64
    """Number of prompt tokens that a causal model reads at once; the rest is read token by token."""
    prefill: bool = True
    """Write a program that reads such blocks; without it a prompt is read token by token."""
    encoder_length: int | None = None
    """Exact number of tokens that a bidirectional model reads (default: its training window)."""
    int8: bool = False
    """Also write a decode step with 8-bit weights: a quarter of the size, and faster."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "block_length", "encoder_length")


class ExportError(UserError, ValueError):
    """A model can't be exported, or an exported one can't be run; the message says why and what to do."""


def import_onnx(module: str) -> Any:
    """Import a module of the extra ``onnx``, or raise an ExportError that names the extra."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed: {install_command('onnx')}") from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into ``folder`` into an ``ExportError`` that names it."""
    try:
        yield
    # Errors of torch and onnx that are not about files stay what they are.
    except OSError as error:
        remedy = "free some space" if is_full(error) else "choose another --output"
        raise ExportError(f"{folder} could not be written ({error.strerror or error}): {remedy}") from error
