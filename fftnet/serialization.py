"""Files of a checkpoint: safetensors and JSON, never pickle; errors name the file."""

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fftnet.errors import UserError

CONFIG_FILE = "config.json"
"""File with the fields of a model's configuration."""
WEIGHTS_FILE = "model.safetensors"
"""File with the weights of a model."""
MAX_JSON_BYTES = 32 * 2**20
"""Maximum size of a JSON file, in bytes; parsing takes up to 30 times as much memory."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of stored weights that are converted to the floating dtype of the model."""
Renaming = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Function that gives the tensors of a file the names of the module."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint can't be read or written; the message names the file, the cause and the way out."""


def is_full(error: Exception) -> bool:
    """Return True if a write failed because the disk is full."""
    # safetensors reports the error number only in its text.
    return getattr(error, "errno", None) in FULL or any(f"os error {code}" in str(error) for code in FULL)


def reason(error: Exception) -> str:
    """Return the cause of a failed write and the way out, as the end of a sentence."""
    if is_full(error):
        return "the disk is full: free some space or choose another --output_dir"
    if isinstance(error, PermissionError):
        return "no permission to write there: choose another --output_dir"
    if isinstance(error, CheckpointError):
        return str(error)
    return f"{error}: check the disk or choose another --output_dir"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into a ``CheckpointError`` that names it and the way out."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} could not be written: {reason(error)}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, of any dtype and device."""
    # The format refuses tensors that share memory, such as tied weights, so each is copied.
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with writing(path):
        save_file(copies, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors that ``write_tensors`` wrote, onto the CPU."""
    with _reading(path):
        return load_file(path)


def stored_numbers(path: Path) -> int:
    """Count the numbers in a file of weights or in its shards, from their headers alone."""
    total = 0
    for file in _shards(path):
        with _reading(file), safe_open(file, framework="pt") as tensors:
            # Shapes come from the header of the file: no tensor is read.
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def has_weights(path: Path) -> bool:
    """Return True if there is a file of weights, or an index of shards instead."""
    return path.exists() or _index_of(path).exists()


def is_file_name(name: str) -> bool:
    """Return True if a name read from a file can only mean a file in the same folder."""
    # A name with a separator or a drive could leave the folder; paths of Windows know all separators.
    # Names with a null or a lone surrogate are not valid.
    return name.isprintable() and name not in ("", "..") and PureWindowsPath(name).name == name


def _index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index.json")


def _shards(path: Path) -> list[Path]:
    """Return the files of weights: ``path``, or the shards that Transformers writes with an index."""
    index = _index_of(path)
    if path.exists() or not index.exists():
        return [path]
    values = read_json(index)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    # An index without names gives one empty name, which is refused below.
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else {""}
    for name in sorted(names):
        if not is_file_name(name):
            raise CheckpointError(
                f"{index} is damaged, take another checkpoint: weight_map must name files of its folder, "
                f"got {name!r}"
            )
    return [path.with_name(name) for name in sorted(names)]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn a failure to read ``path`` into a ``CheckpointError`` that names it and the way out."""
    try:
        # A device or a pipe could be read forever.
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} is damaged, take another checkpoint: it is nested too deep") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged, take another checkpoint: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; an older file stays until the new one is complete."""
    with writing(path):
        # A checkpoint may be the first file of its folder.
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text; an older file stays until the new one is complete, or if an OSError occurs."""
    # Written next to the target and renamed: a rename within a folder replaces the file at once.
    partial = path.with_name(f"{path.name}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def as_json(value: Any) -> Any:
    """Return the value as it would be read from a JSON file: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> Any:
    """Read a JSON file of at most ``MAX_JSON_BYTES``."""
    with _reading(path):
        with path.open("rb") as file:
            # One byte more than allowed, so that a larger file is noticed without reading it whole.
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(content.decode("utf-8"))


def read_weights(module: nn.Module, path: Path, rename: Renaming = dict) -> dict[str, Tensor]:
    """Read weights that fit the module exactly, without changing the module.

    If ``path`` does not exist, the shards of the index with this name are read. ``rename`` gives the weights
    the names of the module. The error names the first weight that does not fit in name, shape or dtype.
    """
    stored = rename({name: tensor for file in _shards(path) for name, tensor in read_tensors(file).items()})
    wanted = module.state_dict()
    # Sorted, so that the message names the same weight in every run.
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in stored:
            problem = f"lacks {name}"
        elif name not in wanted:
            problem = f"holds {name}, which this model lacks"
        elif stored[name].shape != wanted[name].shape:
            problem = f"holds {name} of shape {tuple(stored[name].shape)}, not {tuple(wanted[name].shape)}"
        else:
            check_dtype(path, name, stored[name], wanted[name])
            continue
        raise CheckpointError(f"{path} {problem}: the checkpoint was made with another configuration")
    return stored


def check_dtype(path: Path, name: str, stored: Tensor, wanted: Tensor) -> None:
    """Refuse a stored tensor that can't be converted to the dtype of the module."""
    if stored.dtype == wanted.dtype or (wanted.is_floating_point() and stored.dtype in FLOATS):
        return
    found, own = (str(tensor.dtype).removeprefix("torch.") for tensor in (stored, wanted))
    raise CheckpointError(f"{path} holds {name} as {found}, not {own}: take another checkpoint")


def load_weights(module: nn.Module, path: Path, rename: Renaming = dict) -> None:
    """Load weights that fit the module exactly, as ``read_weights`` reads them."""
    module.load_state_dict(read_weights(module, path, rename))
