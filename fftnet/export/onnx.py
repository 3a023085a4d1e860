"""The format ``onnx``: a folder of programs for ONNX Runtime, and ``state.json`` on how to call them.

A causal model becomes ``step.onnx`` (one token, any batch) and ``prefill.onnx`` (a block of tokens, any
batch), a bidirectional one ``encoder.onnx`` (so many tokens, any batch). The state goes in as tensors ``s0``,
``s1``, ..., all rows first, and comes out as ``n0``, ``n1``, ...
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fftnet.export.config import ExportConfig
from fftnet.export.errors import ExportError, import_onnx, writing
from fftnet.export.graph import simplify
from fftnet.export.packing import Packing
from fftnet.export.programs import EncoderProgram, PrefillProgram, StepProgram
from fftnet.model.fftnet_model import FFTNet
from fftnet.ops import use_backend
from fftnet.serialization import CheckpointError, read_json

STATE_FILE = "state.json"
"""Written last: a folder that holds it is whole."""
STEP_FILE = "step.onnx"
STEP_INT8_FILE = "step_int8.onnx"
PREFILL_FILE = "prefill.onnx"
ENCODER_FILE = "encoder.onnx"
VERSION = 2
"""Of the layout of the folder."""
OPSET = 23
"""Version of ONNX's operators: the first with RMSNorm as one of them."""
ROWS = 2
"""Of the tensors that are traced; the number stays open."""


def write(model: FFTNet, config: ExportConfig) -> list[Path]:
    """Write the programs of a model and ``state.json``; see ``fftnet.export.export_model``.

    Raises:
        ExportError: if a package is not installed, a file can't be written, or ``state.json`` is the user's.
    """
    for package in ("onnx", "onnxscript"):
        import_onnx(package)
    if config.int8 and model.causal:
        import_onnx("onnxruntime.quantization")
    folder = Path(config.output)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_older(folder / STATE_FILE)
        model = copy.deepcopy(model).to("cpu", torch.float32).eval()
        facts = {"format": "onnx", "version": VERSION, "model": asdict(model.config)}
        facts |= {"num_parameters": model.num_parameters(), "vocab_size": model.config.vocab_size}
        facts |= (
            _write_causal(model, folder, config) if model.causal else _write_encoder(model, folder, config)
        )
        (folder / STATE_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in facts["files"].values()] + [folder / STATE_FILE]


def _remove_older(path: Path) -> None:
    """Delete the ``state.json`` of an older export; refuse to delete any other file of that name."""
    if not path.exists():
        return
    try:
        values = read_json(path)
    except CheckpointError:
        values = None
    if not isinstance(values, dict) or values.get("format") != "onnx":
        raise ExportError(f"{path} was not written by fftnet export: choose another --output")
    path.unlink()


def _write_encoder(model: FFTNet, folder: Path, config: ExportConfig) -> dict[str, Any]:
    length = config.encoder_length or model.config.max_seq_length
    tokens_BT = torch.zeros(ROWS, length, dtype=torch.int64)
    _write_program(
        EncoderProgram(model), [tokens_BT], folder / ENCODER_FILE, ["tokens"], ["logits", "hidden"]
    )
    return {"files": {"encoder": ENCODER_FILE}, "encoder_length": length}


def _write_causal(model: FFTNet, folder: Path, config: ExportConfig) -> dict[str, Any]:
    step = StepProgram(model)
    packing = step.packing
    # Where a tensor grows, an empty one would fix its size.
    with torch.no_grad():
        _, state = model.prefill(torch.zeros(ROWS, 3, dtype=torch.int64))
    state = [tensor.clone() for tensor in packing.pack(state)]
    inputs = [f"s{n}" for n in range(len(state))]
    outputs = ["logits", *(f"n{n}" for n in range(len(state)))]
    grows = [packed.grows for packed in packing.tensors]
    token_B = torch.zeros(ROWS, dtype=torch.int64)
    named = [*outputs, *(["filters"] if step.filter_bins else [])]
    _write_program(step, [token_B, *state], folder / STEP_FILE, ["token", *inputs], named, grows)
    files = {"step": STEP_FILE}
    if config.prefill:
        prefill = PrefillProgram(model)
        tokens_BT = torch.zeros(ROWS, config.block_length, dtype=torch.int64)
        names = ["tokens", *inputs]
        _write_program(prefill, [tokens_BT, *state], folder / PREFILL_FILE, names, outputs, grows)
        files["prefill"] = PREFILL_FILE
    if config.int8:
        _quantize(folder / STEP_FILE, folder / STEP_INT8_FILE)
        files["step_int8"] = STEP_INT8_FILE
    start = packing.pack(model.init_state(1))
    return {
        "files": files,
        "block_length": config.block_length,
        "state": _describe(packing, start),
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in start),
        "filters": {
            "layers": list(step.filter_bins),
            "bins": list(step.filter_bins.values()),
            "heads": model.config.num_heads,
        },
    }


def _describe(packing: Packing, start: Sequence[Tensor]) -> list[dict[str, Any]]:
    """One entry a tensor of a state of one row; shapes without the rows."""
    return [
        {
            "input": f"s{n}",
            "output": f"n{n}",
            "layers": list(packed.layers),
            "field": packed.field,
            "shape": list(tensor.shape[1:]),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "initial": _initial(tensor[0]),
            "grows": None if packed.grows is None else packed.grows - 1,
        }
        for n, (packed, tensor) in enumerate(zip(packing.tensors, start, strict=True))
    ]


def _initial(tensor: Tensor) -> Any:
    """The one number that a tensor is filled with, 0 if it is empty, else all of them in its shape."""
    if tensor.numel() == 0:
        return 0
    first = tensor.flatten()[0]
    return first.item() if bool((tensor == first).all()) else tensor.tolist()


def _write_program(
    program: nn.Module,
    example: Sequence[Tensor],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    grows: Sequence[int | None] = (),
) -> None:
    """Trace a program of ids and states, rows open, and other dimensions where a state's tensor grows."""
    rows = {0: torch.export.Dim("batch", min=1)}
    slots = torch.export.Dim("slots", min=1)
    states = tuple(rows if grown is None else rows | {grown: slots} for grown in grows)
    shapes: Any = (rows, states) if states else (rows,)
    with _quiet(), use_backend("export"), torch.no_grad():
        exported = torch.onnx.export(
            program,
            tuple(example),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert exported is not None
    simplify(exported.model)
    exported.save(path)


def _quantize(source: Path, target: Path) -> None:
    """Weights of matrix products and embeddings with 8 bits, and their inputs as they come.

    Each column has a scale of its own: projections of unlike sizes lie side by side in one product. Without
    a sign, since products of signed weights overflow in silence on processors with AVX2 and no VNNI.
    """
    quantization = import_onnx("onnxruntime.quantization")
    with _quiet():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            weight_type=quantization.QuantType.QUInt8,
            per_channel=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice that is meant for those who write exporters."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "root")}
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
