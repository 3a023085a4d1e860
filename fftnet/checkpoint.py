"""Files of a checkpoint: safetensors and JSON, never pickle, swapped in whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class CheckpointError(RuntimeError):
    """A checkpoint can't be read or written; the message says which file, why, and what to do."""


def replace_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Write a folder so that at every instant the old or the new one is there in whole.

    The new one is filled beside the old, flushed to the disk, and renamed into place; in between, the old one
    waits under ``<name>.old``, where :func:`intact` finds it.

    Args:
        path: the folder to make or replace.
        fill: writes the content into the folder that it is given.

    Raises:
        CheckpointError: if writing fails; what was there before is still there.
    """
    temporary, aside = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists() and not path.exists():
            aside.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        fill(temporary)
        for file in (*temporary.rglob("*"), temporary):
            _flush(file)
        shutil.rmtree(aside, ignore_errors=True)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        _flush(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = "; the previous one is kept" if intact(path) is not None else ""
        raise CheckpointError(f"the checkpoint {path} could not be saved ({_reason(error)}){kept}") from error


def intact(path: Path) -> Path | None:
    """The whole folder that :func:`replace_directory` left for ``path``, or None if there never was one."""
    for candidate in (path, path.with_name(f"{path.name}.old")):
        if candidate.is_dir():
            return candidate
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: free some space or choose another --output_dir"
    if isinstance(error, PermissionError):
        return "no permission to write there: choose another --output_dir"
    return str(error)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors.

    Raises:
        CheckpointError: naming the file, if it can't be written.
    """
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        full = "os error 28" in str(error)
        reason = _reason(OSError(errno.ENOSPC, "")) if full else _reason(error)
        raise CheckpointError(f"{path} could not be written: {reason}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote, onto the CPU.

    Raises:
        CheckpointError: naming the file, if it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged, take another checkpoint: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON.

    Raises:
        CheckpointError: naming the file, if it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {_reason(error)}") from error


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote.

    Raises:
        CheckpointError: naming the file, if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged, take another checkpoint: {error}") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights that must fit the module exactly.

    Raises:
        CheckpointError: naming the file and the first weight that is missing, unknown or of another shape.
    """
    stored, wanted = read_tensors(path), module.state_dict()
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
    with torch.no_grad():
        module.load_state_dict(stored)
