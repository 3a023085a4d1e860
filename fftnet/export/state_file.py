"""The file ``state.json`` of an exported folder: it is checked before a program is opened."""

import math
from collections import namedtuple
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fftnet.export.config import ExportError
from fftnet.export.onnx import STATE_FILE, VERSION
from fftnet.fields import MAX_SIZE, MAX_VOCAB_SIZE
from fftnet.serialization import CheckpointError, is_file_name, read_json

MAKE = "fftnet export CHECKPOINT --output"
DTYPES = {"float32": torch.float32, "int64": torch.int64}
MAX_NUMBERS = 2**28
"""Maximum size of one row of a state tensor: 1 GB in float32."""


class StateTensor(NamedTuple):
    """One tensor of the state."""

    input: str
    output: str
    layers: tuple[int, ...]
    """Numbers of the layers whose states it holds."""
    field: str
    """Name of the field in the states of these layers."""
    start: Tensor
    """Value before the first token, of one row; its numbers may share memory."""
    grows: int | None
    """Dimension that grows with the text; dimension 0 are the rows."""


def read_description(folder: Path) -> tuple[dict[str, Any], list[StateTensor]]:
    """Read ``state.json``; return its content, and its entries for the state of a causal model."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise ExportError(f"{path} is missing: create the folder with {MAKE} {folder}")
    try:
        values = read_json(path)
    except CheckpointError as error:
        raise ExportError(f"{path} is damaged, export the model again") from error
    if not isinstance(values, dict) or values.get("version") != VERSION or values.get("format") != "onnx":
        raise ExportError(f"{path} is not of format onnx, version {VERSION}: export the model again")
    try:
        _check_number(values, "num_parameters", 0, 2**63)
        _check_number(values, "vocab_size", 1, MAX_VOCAB_SIZE)
        for name in values["files"].values():
            # A path could lead out of the folder.
            if not isinstance(name, str) or not is_file_name(name):
                raise ValueError(f"files must name files of the folder, got {name!r}")
        if "step" not in values["files"]:
            return values, []
        _check_number(values, "block_length", 1, MAX_SIZE)
        entries = [_state_tensor(entry) for entry in values["state"]]
        if not entries:
            raise ValueError("state must have an entry for each tensor, got none")
        # Refuses names that can't be fields, and two fields of one name.
        layer_types(entries)
    # The errors of reading a value of another type than expected, and of making tensors of it.
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ExportError(f"{path} is damaged, export the model again: {reason}") from error
    return values, entries


def layer_types(entries: Sequence[StateTensor]) -> list[Any]:
    """Return the types of the parts of a state: tensors of the same layers are the fields of one part."""
    parts: dict[tuple[int, ...], list[StateTensor]] = {}
    for entry in entries:
        parts.setdefault(entry.layers, []).append(entry)
    return [_layer_type(tuple((entry.field, entry.grows) for entry in part)) for part in parts.values()]


# Cached: states of two runtimes of one model have the same types and can be concatenated.
@cache
def _layer_type(fields: tuple[tuple[str, int | None], ...]) -> Any:
    growing = {name: grows for name, grows in fields if grows is not None}
    names = [name for name, _ in fields]
    return type("LayerState", (namedtuple("LayerState", names),), {"growing": growing})


def _check_number(values: Mapping[str, Any], name: str, least: int, most: int) -> None:
    if type(values[name]) is not int or not least <= values[name] <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {values[name]!r}")


def _state_tensor(entry: Mapping[str, Any]) -> StateTensor:
    for name in ("input", "output", "field"):
        if not isinstance(entry[name], str):
            raise ValueError(f"{name} must be a text, got {entry[name]!r}")
    shape = entry["shape"]
    # A damaged shape must not allocate all memory.
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"shape must have from 0 to {MAX_NUMBERS} numbers, got {shape}")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype must be {' or '.join(DTYPES)}, got {entry['dtype']!r}")
    if entry["grows"] is not None:
        _check_number(entry, "grows", 0, len(shape) - 1)
    start = torch.tensor(entry["initial"], dtype=DTYPES[entry["dtype"]]).expand(1, *shape)
    grows = None if entry["grows"] is None else entry["grows"] + 1
    return StateTensor(entry["input"], entry["output"], tuple(entry["layers"]), entry["field"], start, grows)
