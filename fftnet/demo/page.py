"""Folder of the page: its own files, the exported decode step, and the runtime."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fftnet.data.tokenizer_json import LIBRARY_FILE
from fftnet.demo.config import DemoConfig, DemoError
from fftnet.export import ExportConfig, export_model
from fftnet.export.config import writing
from fftnet.export.onnx import STATE_FILE, STEP_FILE, STEP_INT8_FILE
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.mixers.addressed_spectral import AddressedSpectralState
from fftnet.model.mixers.delta_spectral import DeltaSpectralState

if TYPE_CHECKING:
    from fftnet.utils.tokenizer import Tokenizer

STATIC = Path(__file__).parent / "static"
MODEL_FOLDER = "model"
RUNTIME_FOLDER = "runtime"
README_FILE = "README.txt"
"""Name of the package's README in the page: browsers show plain text and download Markdown."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that has other files than those of a page."""
    with writing(folder):
        if folder.exists() and any(folder.iterdir()) and not (folder / MODEL_FOLDER / STATE_FILE).is_file():
            raise DemoError(f"{folder} is not empty and has no page: choose another --output")


def make_page(model: FFTNet, tokenizer: "Tokenizer", config: DemoConfig, runtime: Mapping[str, Path]) -> Path:
    """Write a page that runs a model; it replaces an older page in the folder.

        >>> model, tokenizer = fftnet.load("models/shakespeare")
        >>> make_page(model, tokenizer, DemoConfig(output="page"), find_runtime())

    Args:
        model: causal model; it is not changed.
        tokenizer: tokenizer of the model.
        config: folder and width of the weights.
        runtime: files from ``fftnet.demo.runtime_files.find_runtime``.

    Returns:
        The folder.

    Raises:
        DemoError: if the model is bidirectional, or the folder has other files.
        ExportError: if a package is not installed, or a file can't be written.
    """
    if not model.causal:
        raise DemoError("a bidirectional model can't write: take one that was trained with causal=True")
    folder = Path(config.output)
    check_folder(folder)
    step = STEP_INT8_FILE if config.int8 else STEP_FILE
    # An export that fails leaves an older page as it is.
    with writing(folder), tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch)
        export_model(model, tokenizer, ExportConfig(output=scratch, prefill=False, int8=config.int8))
        for part in (MODEL_FOLDER, RUNTIME_FOLDER):
            (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copytree(STATIC, folder, dirs_exist_ok=True)
        # Without a byte-order mark, a browser would guess the encoding of plain text.
        (folder / README_FILE).write_text(_readme(), encoding="utf-8-sig")
        for name, source in runtime.items():
            shutil.copyfile(source, folder / RUNTIME_FOLDER / name)
        for name in (step, LIBRARY_FILE):
            shutil.copyfile(exported / name, folder / MODEL_FOLDER / name)
        description = json.loads((exported / STATE_FILE).read_text(encoding="utf-8"))
        description |= {"files": {"step": step}, "spectra": _spectra(model, description["state"])}
        text = json.dumps(description, indent=2) + "\n"
        (folder / MODEL_FOLDER / STATE_FILE).write_text(text, encoding="utf-8")
        # An older page may have weights of the other width.
        for path in (folder / MODEL_FOLDER).glob("*.onnx"):
            if path.name != step:
                path.unlink()
    return folder


def _readme() -> str:
    """Return the README from the metadata of the installed package, or else from the source tree."""
    try:
        return metadata("fftnet")["Description"]
    except PackageNotFoundError:
        return (STATIC.parents[2] / "README.md").read_text(encoding="utf-8")


def _spectra(model: FFTNet, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the place of each layer's spectrum (H, 2, F, d) in the state: tensor, and part of it."""
    state = model.init_state(1, "meta")
    return [
        {"input": entry["input"], "part": part, "parts": len(layers), "layer": layer}
        for entry in entries
        if entry["field"] == "spectrum"
        for layers in [entry["layers"]]
        for part, layer in enumerate(layers)
        # Another mixer may order the axes of its spectrum otherwise.
        if isinstance(state[layer], AddressedSpectralState | DeltaSpectralState)
    ]
