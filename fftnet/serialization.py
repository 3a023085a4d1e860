"""Files of a checkpoint, by name: safetensors and JSON, never pickle."""

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
"""The fields of a model's configuration."""
WEIGHTS_FILE = "model.safetensors"
"""The weights that a model is used with."""
MAX_JSON_BYTES = 32 * 2**20
"""Largest JSON file that is read, in bytes; parsing takes up to 30 times as much memory."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint can't be read or written; the message says which file, why, and what to do."""


def is_full(error: Exception) -> bool:
    """Whether a write failed for want of space."""
    # safetensors reports what went wrong in its text only.
    return getattr(error, "errno", None) in FULL or any(f"os error {code}" in str(error) for code in FULL)


def reason(error: Exception) -> str:
    """The cause of a failure with a file and the way out, as the end of a sentence."""
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
    """Write named tensors as safetensors, of any dtype and device.

    Raises:
        CheckpointError: naming the file, if it can't be written.
    """
    # The format refuses tensors that share memory, as tied weights do; copies do not share.
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with writing(path):
        save_file(copies, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what ``write_tensors`` wrote, onto the CPU.

    Raises:
        CheckpointError: naming the file, if it is missing or damaged.
    """
    with _reading(path):
        return load_file(path)


def stored_numbers(path: Path) -> int:
    """Count the numbers in a file of weights or in its shards, from their headers alone.

    Raises:
        CheckpointError: naming the file, if it is missing or damaged.
    """
    total = 0
    for file in _shards(path):
        with _reading(file), safe_open(file, framework="pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def has_weights(path: Path) -> bool:
    """Return whether there is a file of weights, or an index of shards instead."""
    return path.exists() or _index_of(path).exists()


def is_file_name(name: str) -> bool:
    """Return whether a name in a file can only be that of a file in the same folder."""
    # A path of Windows has all separators; a name with one, or with a drive, could leave the folder.
    # A null or a lone surrogate is no part of a file name.
    return name.isprintable() and name not in ("", "..") and PureWindowsPath(name).name == name


def _index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index.json")


def _shards(path: Path) -> list[Path]:
    """The files of weights: ``path``, or the shards that Transformers writes with an index instead."""
    index = _index_of(path)
    if path.exists() or not index.exists():
        return [path]
    values = read_json(index)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
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
        # A device or a pipe can be read without end.
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
    """Write a value as indented JSON; an older file stays until the new one is whole.

    Raises:
        CheckpointError: naming the file, if it can't be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text; an older file stays until the new one is whole.

    Raises:
        OSError: if it can't be written, in which case nothing new is left.
    """
    partial = path.with_name(f"{path.name}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Raises:
        CheckpointError: naming the file, if it is missing, damaged or larger than ``MAX_JSON_BYTES``.
    """
    with _reading(path):
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(content.decode("utf-8"))


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of weights that a model of another floating dtype reads."""
Renaming = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Gives the tensors of a file the names that the module has for them."""


def read_weights(module: nn.Module, path: Path, rename: Renaming = dict) -> dict[str, Tensor]:
    """Read weights that must fit the module exactly, and leave it as it is.

    Args:
        module: on any device.
        path: file of the weights; without it, the shards that an index of this name lists.
        rename: gives the weights the names of the module.

    Raises:
        CheckpointError: naming the file and the first weight that is missing, unknown, of another shape or of
            a dtype that is no floating-point number of at least 16 bits.
    """
    stored = rename({name: tensor for file in _shards(path) for name, tensor in read_tensors(file).items()})
    wanted = module.state_dict()
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
    """Refuse a tensor of a file that cannot be converted to the dtype that is wanted.

    Raises:
        CheckpointError: naming the file, the tensor and both dtypes.
    """
    if stored.dtype == wanted.dtype or (wanted.is_floating_point() and stored.dtype in FLOATS):
        return
    found, own = (str(tensor.dtype).removeprefix("torch.") for tensor in (stored, wanted))
    raise CheckpointError(f"{path} holds {name} as {found}, not {own}: take another checkpoint")


def load_weights(module: nn.Module, path: Path, rename: Renaming = dict) -> None:
    """Load weights that must fit the module exactly.

    Raises:
        CheckpointError: as ``read_weights``.
    """
    module.load_state_dict(read_weights(module, path, rename))
