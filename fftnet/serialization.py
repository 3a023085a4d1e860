"""Files of a checkpoint, by name: safetensors and JSON, never pickle."""

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fftnet.errors import UserError

CONFIG_FILE = "config.json"
"""The fields of a model's configuration."""
WEIGHTS_FILE = "model.safetensors"
"""The weights that a model is used with."""
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
    try:
        return load_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from error
    except (OSError, SafetensorError) as error:
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
        CheckpointError: naming the file, if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged, take another checkpoint: {error}") from error


Renaming = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Gives the tensors of a file the names that the module has for them."""


def read_weights(module: nn.Module, path: Path, rename: Renaming = dict) -> dict[str, Tensor]:
    """Read weights that must fit the module exactly, and leave it as it is.

    Raises:
        CheckpointError: naming the file and the first weight that is missing, unknown or of another shape.
    """
    stored = rename(read_tensors(path))
    wanted = module.state_dict()
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in stored:
            problem = f"lacks {name}"
        elif name not in wanted:
            problem = f"holds {name}, which this model lacks"
        elif stored[name].shape != wanted[name].shape:
            problem = f"holds {name} of shape {tuple(stored[name].shape)}, not {tuple(wanted[name].shape)}"
        else:
            continue
        raise CheckpointError(f"{path} {problem}: the checkpoint was made with another configuration")
    return stored


def load_weights(module: nn.Module, path: Path, rename: Renaming = dict) -> None:
    """Load weights that must fit the module exactly.

    Raises:
        CheckpointError: as ``read_weights``.
    """
    module.load_state_dict(read_weights(module, path, rename))
