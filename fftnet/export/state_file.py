"""The file ``state.json`` of an exported folder: every field is checked before it is used."""

import math
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from fftnet.export.config import ExportError
from fftnet.export.onnx import STATE_FILE, VERSION
from fftnet.fields import MAX_SIZE, MAX_VOCAB_SIZE, check_fields, check_range
from fftnet.serialization import CheckpointError, is_file_name, read_json

MAKE = "fftnet export CHECKPOINT --output"
DTYPES = {"float32": torch.float32, "int64": torch.int64}
MAX_NUMBERS = 2**28
"""Maximum size of one row of a state tensor: 1 GB in float32."""

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class StateTensor:
    """Entry of ``state.json`` for one tensor of the state."""

    input: str
    """Name among the inputs of the programs."""
    output: str
    """Name among the outputs of the programs."""
    layers: tuple[int, ...]
    """Numbers of the layers whose states it holds."""
    field: str
    """Name of the field in the states of these layers."""
    shape: tuple[int, ...]
    """Shape of one row."""
    dtype: str
    """Dtype: float32 or int64."""
    initial: Any
    """Value before the first token: one number, or an array of ``shape``."""
    grows: int | None
    """Dimension of ``shape`` that grows with the text."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}")
        # A damaged shape must not allocate all memory.
        if min(self.shape, default=0) < 0 or math.prod(self.shape) > MAX_NUMBERS:
            raise ValueError(f"shape must have from 0 to {MAX_NUMBERS} numbers, got {self.shape}")
        check_range(self, 0, len(self.shape) - 1, "grows")
        try:
            self.start(1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"initial does not fit shape {self.shape}: {error}") from error

    def start(self, rows: int) -> Tensor:
        """Return the tensor before the first token; its rows share memory."""
        return torch.tensor(self.initial, dtype=DTYPES[self.dtype]).expand(rows, *self.shape)


@dataclass(frozen=True, kw_only=True)
class Description:
    """Fields of ``state.json`` that are needed to run the programs."""

    files: dict[str, str]
    """File names of the programs by their purpose."""
    num_parameters: int
    """Number of parameters of the model."""
    vocab_size: int
    """Number of token ids."""
    block_length: int = 1
    """Number of tokens that the program ``prefill`` reads at once."""
    state: tuple[Any, ...] = ()
    """Tensors of the state of a causal model, as ``StateTensor``."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 0, None, "num_parameters")
        check_range(self, 1, MAX_VOCAB_SIZE, "vocab_size")
        check_range(self, 1, MAX_SIZE, "block_length")
        # A path could lead out of the folder.
        for name in self.files.values():
            if not is_file_name(name):
                raise ValueError(f"files must name files of the folder, got {name!r}")
        if "step" in self.files and not self.state:
            raise ValueError("state must have an entry for each tensor, got none")
        object.__setattr__(self, "state", tuple(_from_json(StateTensor, entry) for entry in self.state))
        # Refuses names that can't be fields, and two fields of one name.
        self.layer_types()

    def layer_types(self) -> list[Any]:
        """Return the types of the parts of a state: tensors of the same layers are the fields of one part."""
        parts: dict[tuple[int, ...], list[StateTensor]] = {}
        for entry in self.state:
            parts.setdefault(entry.layers, []).append(entry)
        return [
            _layer_type(
                tuple(entry.field for entry in part),
                tuple((entry.field, entry.grows + 1) for entry in part if entry.grows is not None),
            )
            for part in parts.values()
        ]


def read_description(folder: Path) -> tuple[dict[str, Any], Description]:
    """Read ``state.json`` of an exported folder.

    Returns:
        The content of the file, and the fields that were checked.

    Raises:
        ExportError: if the file is missing, damaged or of another version.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ExportError(f"{path} is missing: create the folder with {MAKE} {folder}")
    try:
        values = read_json(path)
    except CheckpointError as error:
        raise ExportError(f"{path} is damaged, export the model again") from error
    if not isinstance(values, Mapping) or values.get("version") != VERSION or values.get("format") != "onnx":
        raise ExportError(f"{path} is not of format onnx, version {VERSION}: export the model again")
    try:
        return dict(values), _from_json(Description, values)
    except ValueError as error:
        raise ExportError(f"{path} is damaged, export the model again: {error}") from error


def _from_json(kind: type[Kind], values: Any) -> Kind:
    """Make a dataclass of a JSON object, whose other fields are ignored."""
    known = [each.name for each in fields(kind)]  # pyright: ignore[reportArgumentType]
    if not isinstance(values, Mapping):
        raise ValueError(f"expected an object with {', '.join(known)}, got {values!r}")
    try:
        return kind(**{name: values[name] for name in known if name in values})
    except TypeError as error:
        raise ValueError(f"a field is missing: {error}") from error


# Cached: states of two runtimes of one model have the same types and can be concatenated.
@cache
def _layer_type(names: tuple[str, ...], growing: Sequence[tuple[str, int]]) -> Any:
    return type("LayerState", (namedtuple("LayerState", names),), {"growing": dict(growing)})
