"""Trained models in the formats of other runtimes: a table. A new format is a file here and a line in it.

``export_model`` writes a model as a folder, ``fftnet.export.runtime`` runs what the format ``onnx`` wrote.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fftnet.export import onnx
from fftnet.export.config import ExportConfig
from fftnet.export.errors import ExportError, writing
from fftnet.model.fftnet_model import FFTNet

if TYPE_CHECKING:
    from fftnet.utils.tokenizer import Tokenizer

__all__ = ["FORMATS", "ExportConfig", "ExportError", "export_model"]

FORMATS: dict[str, Callable[[FFTNet, ExportConfig], list[Path]]] = {"onnx": onnx.write}
"""Name to a function that writes a model's files into the folder of the configuration and names them."""


def export_model(model: FFTNet, tokenizer: "Tokenizer | None", config: ExportConfig) -> list[Path]:
    """Write a model and its tokenizer as a folder that another runtime reads.

        >>> model, tokenizer = fftnet.load("outputs/best")
        >>> export_model(model, tokenizer, ExportConfig(output="exported", int8=True))

    Args:
        model: left as it is; its copy is in float32, on the CPU, in evaluation mode.
        tokenizer: saved beside the model (None: the folder holds none, and reads ids only).
        config: format, folder and sizes.

    Returns:
        The files of the model.

    Raises:
        ExportError: if there is no such format, a package is not installed, or a file can't be written.
    """
    if config.format not in FORMATS:
        raise ExportError(f"unknown format {config.format!r}; choose from {', '.join(FORMATS)}")
    files = FORMATS[config.format](model, config)
    if tokenizer is not None:
        with writing(Path(config.output)):
            tokenizer.save(config.output)
    return files
