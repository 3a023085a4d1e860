"""The format ``onnx``: a folder of programs for ONNX Runtime, and ``state.json``, which describes them.

A causal model becomes ``step.onnx`` (one token) and ``prefill.onnx`` (a block of tokens), a bidirectional one
``encoder.onnx`` (a fixed number of tokens), all for any batch size. The state goes in as tensors ``s0``,
``s1``, ..., batch first, and comes out as ``n0``, ``n1``, ...
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

from fftnet.export.config import ExportConfig, ExportError, import_onnx, writing
from fftnet.export.programs import EncoderProgram, PrefillProgram, StepProgram
from fftnet.model.fftnet_model import FFTNet
from fftnet.ops import use_backend
from fftnet.serialization import CheckpointError, read_json

STATE_FILE = "state.json"
"""Description of the folder, written last: a folder with it is complete."""
STEP_FILE = "step.onnx"
STEP_INT8_FILE = "step_int8.onnx"
VERSION = 2
"""Version of the folder's format."""
ROWS = 2
"""Batch size used for tracing; the exported batch dimension is dynamic."""


def write(model: FFTNet, config: ExportConfig) -> list[Path]:
    """Write the programs of a model and ``state.json``; see ``fftnet.export.export_model``."""
    for package in ("onnx", "onnxscript", *["onnxruntime.quantization"] * (config.int8 and model.causal)):
        import_onnx(package)
    folder = Path(config.output)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Removed first and written last: an interrupted export leaves no folder that looks complete.
        _remove_older(folder / STATE_FILE)
        model = copy.deepcopy(model).to("cpu", torch.float32).eval()
        description = {
            "format": "onnx",
            "version": VERSION,
            "model": asdict(model.config),
            "num_parameters": model.num_parameters(),
            "vocab_size": model.config.vocab_size,
            **(_write_causal if model.causal else _write_encoder)(model, folder, config),
        }
        (folder / STATE_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in description["files"].values()] + [folder / STATE_FILE]


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
    path = folder / "encoder.onnx"
    _write_program(EncoderProgram(model), [tokens_BT], path, ["tokens"], ["logits", "hidden"])
    return {"files": {"encoder": path.name}, "encoder_length": length}


def _write_causal(model: FFTNet, folder: Path, config: ExportConfig) -> dict[str, Any]:
    step = StepProgram(model)
    packing = step.packing
    # A few tokens are read first: an empty tensor would fix the size of a dimension that grows.
    with torch.no_grad():
        _, state = model.prefill(torch.zeros(ROWS, 3, dtype=torch.int64))
    state = [tensor.clone() for tensor in packing.pack(state)]
    inputs = [f"s{n}" for n in range(len(state))]
    outputs = ["logits", *(f"n{n}" for n in range(len(state)))]
    grows = [packed.grows for packed in packing.tensors]
    token_B = torch.zeros(ROWS, dtype=torch.int64)
    with_filters = outputs + ["filters"] * bool(step.filter_bins)
    _write_program(step, [token_B, *state], folder / STEP_FILE, ["token", *inputs], with_filters, grows)
    files = {"step": STEP_FILE}
    if config.prefill:
        tokens_BT = torch.zeros(ROWS, config.block_length, dtype=torch.int64)
        path = folder / "prefill.onnx"
        prefill = PrefillProgram(model)
        _write_program(prefill, [tokens_BT, *state], path, ["tokens", *inputs], outputs, grows)
        files["prefill"] = path.name
    if config.int8:
        _quantize(folder / STEP_FILE, folder / STEP_INT8_FILE)
        files["step_int8"] = STEP_INT8_FILE
    start = packing.pack(model.init_state(1))
    return {
        "files": files,
        "block_length": config.block_length,
        "state": [
            {
                "input": f"s{n}",
                "output": f"n{n}",
                "layers": list(packed.layers),
                "field": packed.field,
                # Shapes are those of one row.
                "shape": list(tensor.shape[1:]),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "initial": _initial(tensor[0]),
                "grows": None if packed.grows is None else packed.grows - 1,
            }
            for n, (packed, tensor) in enumerate(zip(packing.tensors, start, strict=True))
        ],
        "state_bytes": sum(tensor.nbytes for tensor in start),
        "filters": {
            "layers": list(step.filter_bins),
            "bins": list(step.filter_bins.values()),
            "heads": model.config.num_heads,
        },
    }


def _initial(tensor: Tensor) -> Any:
    """Return one number if the tensor is constant or empty, else all its numbers."""
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
    """Trace a program with ids and state tensors; the batch and the dimensions that grow stay dynamic."""
    # At least 1: empty batches and states are never run.
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
            # The first version of ONNX's operators with RMSNorm.
            opset_version=23,
            verbose=False,
        )
    assert exported is not None
    exported.save(path)


def _quantize(source: Path, target: Path) -> None:
    """Write a program with 8-bit weights of matrix products and embeddings."""
    quantization = import_onnx("onnxruntime.quantization")
    with _quiet():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            # Unsigned: products of signed weights overflow without notice on CPUs with AVX2 and no VNNI.
            weight_type=quantization.QuantType.QUInt8,
            # A matrix product may hold columns of different projections, whose ranges differ.
            per_channel=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings within the block: the exporters' advice is for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
