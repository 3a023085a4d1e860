"""Trained models in the formats of other runtimes: a table of formats.

``export_model`` writes a model as a folder; ``fftnet.export.runtime`` runs one of the format ``onnx``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fftnet.export import onnx
from fftnet.export.config import ExportConfig, ExportError, writing
from fftnet.model.fftnet_model import FFTNet

if TYPE_CHECKING:
    from fftnet.utils.tokenizer import Tokenizer

__all__ = ["FORMATS", "ExportConfig", "ExportError", "export_model"]

FORMATS: dict[str, Callable[[FFTNet, ExportConfig], list[Path]]] = {"onnx": onnx.write}
"""Functions by format that write the files of a model into a folder and return their paths."""


def export_model(model: FFTNet, tokenizer: "Tokenizer | None", config: ExportConfig) -> list[Path]:
    """Write a model and its tokenizer as a folder for another runtime.

        >>> model, tokenizer = fftnet.load("outputs/best")
        >>> export_model(model, tokenizer, ExportConfig(output="exported", int8=True))

    Args:
        model: model to export; it is not changed.
        tokenizer: tokenizer to save next to the model (None: the folder reads ids only).
        config: format, folder and sizes.

    Returns:
        Paths of the model's files.

    Raises:
        ExportError: if the format is unknown, a package is not installed, or a file can't be written.
    """
    if config.format not in FORMATS:
        raise ExportError(f"unknown format {config.format!r}; choose from {', '.join(FORMATS)}")
    files = FORMATS[config.format](model, config)
    if tokenizer is not None:
        with writing(Path(config.output)):
            tokenizer.save(config.output)
    return files
