"""States of causal models, as values: copied, picked from, written to files and read again.

A state stands for everything that a model has read. It is a tuple with one entry a layer: a ``NamedTuple`` of
tensors whose first dimension counts rows. The model makes it (``init_state``, ``prefill``) and never changes
one that it was handed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fftnet import serialization
from fftnet.fields import MAX_COUNT
from fftnet.serialization import CheckpointError

State = tuple[Any, ...]
"""One state a layer. Its size does not depend on how much was read, but for attention."""

ANY = -1
"""In a layout: a dimension that grows with what was read."""


class Stateful(Protocol):
    """A model that makes states."""

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The state before the first token."""
        ...


class LayerLayout(NamedTuple):
    """The type and the shapes that the state of a layer must have."""

    kind: type
    sizes: tuple[tuple[int, ...], ...]
    """Shape of each tensor without its rows; ``ANY`` where it grows."""


Layout = tuple[LayerLayout, ...]


def expand_state(state: State, copies: int) -> State:
    """Every row ``copies`` times, one after the other, as ``repeat_interleave`` does.

    Args:
        state: of B rows; it is left as it is.
        copies: at least 1.

    Returns:
        A state of B * copies rows that shares no memory with ``state``.

    Raises:
        ValueError: if ``copies`` is below 1.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")
    return select_state(state, torch.arange(num_rows(state)).repeat_interleave(copies))


def select_state(state: State, rows: Tensor | Sequence[int]) -> State:
    """The rows that are asked for, in that order: beams that go on, prompts that are not finished.

    Args:
        state: of B rows; it is left as it is.
        rows: int64 indices (N,) in [0, B), which may repeat, or a boolean mask (B,) of the rows to keep.

    Returns:
        A state of the rows asked for that shares no memory with ``state``.

    Raises:
        ValueError: if no row is asked for, or one that is not there.
    """
    count = num_rows(state)
    index = rows if isinstance(rows, Tensor) else torch.tensor(rows, device="cpu")
    if index.dtype == torch.bool:
        if index.shape != (count,):
            raise ValueError(f"a mask of {tuple(index.shape)} can't pick from a state of {_rows(count)}")
        index = index.nonzero()[:, 0]
    if index.ndim != 1 or len(index) == 0:
        raise ValueError(f"rows must name at least one row in one dimension, got {tuple(index.shape)}")
    if index.is_floating_point() or index.is_complex():
        raise ValueError(f"rows must be integers or a boolean mask, got {index.dtype}")
    lowest = int(index.min())
    highest = int(index.max())
    if lowest < 0 or highest >= count:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"the state is of {_rows(count)}, so there is no row {wrong}")
    index = index.long()
    return tuple(
        type(layer)(*(tensor.index_select(0, index.to(tensor.device)) for tensor in layer)) for layer in state
    )


def concat_states(states: Sequence[State]) -> State:
    """The rows of several states of one model in one, in their order.

    Args:
        states: at least one; they are left as they are. Where their tensors grow with what was read, shorter
            ones are filled up with zeros.

    Returns:
        A state of all their rows that shares no memory with them.

    Raises:
        ValueError: if there is none, or they are of different models.
    """
    if not states:
        raise ValueError("there is no state to concatenate")
    layouts = [layout_of(state) for state in states]
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError("the states are of different models")
    return tuple(_concat_layers(layers) for layers in zip(*states, strict=True))


def save_state(state: State, path: str | Path) -> None:
    """Write a state as safetensors.

    Raises:
        CheckpointError: naming the file, if it can't be written.
    """
    serialization.write_tensors(Path(path), state_tensors(state))


def load_state(path: str | Path, model: Stateful) -> State:
    """Read what ``save_state`` wrote, for the model that it was made by or one of the same sizes.

    Returns:
        The state on the device and in the precision of the model.

    Raises:
        CheckpointError: naming the file, if it is missing, damaged or of another model.
    """
    stored = serialization.read_tensors(Path(path))
    start = model.init_state(1)
    wanted = state_tensors(start)
    for name in sorted(stored.keys() | wanted.keys()):
        if (name in stored) != (name in wanted):
            problem = "holds" if name in stored else "lacks"
            raise CheckpointError(f"{path} is the state of another model: it {problem} {name}")
        serialization.check_dtype(Path(path), name, stored[name], wanted[name])
    state = state_of_tensors(stored, start)
    try:
        check_state(state, layout_of(start), num_rows(state))
        _check_counts(state)
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit: {error}") from error
    return state


def _check_counts(state: State) -> None:
    """Refuse numbers of tokens that can't be: negative ones, and more than the slots of tensors that grow."""
    for index, layer in enumerate(state):
        growing = getattr(layer, "growing", {})
        most = min((getattr(layer, field).shape[dim] for field, dim in growing.items()), default=MAX_COUNT)
        for field, tensor in layer._asdict().items():
            if not tensor.is_floating_point() and bool(((tensor < 0) | (tensor > most)).any()):
                raise ValueError(f"{field} of layer {index} must lie between 0 and {most}")


def state_tensors(state: State) -> dict[str, Tensor]:
    """The tensors of a state themselves, named ``layer.field``."""
    return {
        f"{index}.{field}": tensor
        for index, layer in enumerate(state)
        for field, tensor in layer._asdict().items()
    }


def state_of_tensors(tensors: Mapping[str, Tensor], like: State) -> State:
    """The state of which ``state_tensors`` gave these.

    Args:
        tensors: left as they are, and part of the result where device and dtype are right.
        like: a state of the same model, of any rows, which tells types, devices and dtypes.

    Raises:
        KeyError: if a tensor is missing.
    """
    wanted = state_tensors(like)
    fitted = {name: tensors[name].to(tensor.device, tensor.dtype) for name, tensor in wanted.items()}
    return tuple(
        type(layer)(*(fitted[f"{index}.{field}"] for field in layer._fields))
        for index, layer in enumerate(like)
    )


def num_rows(state: State) -> int:
    """Rows B of a state."""
    shape = state[0][0].shape
    return shape[0] if shape else 0


def layout_of(state: State) -> Layout:
    """The layout that every state of the model which made ``state`` has.

    A state with tensors that grow names them in a class attribute ``growing``, field to dimension. Fields
    that are the same in every layer may be named in another, ``common``; exported models hold them once.
    """
    return tuple(LayerLayout(type(layer), tuple(_sizes(layer))) for layer in state)


def check_state(state: State, layout: Layout, rows: int) -> None:
    """Refuse a state that does not belong to the tokens or to the model.

    Raises:
        ValueError: saying what differs and the way out.
    """
    # This runs at every decode step: it compares, and looks for words only where something differs.
    if len(state) != len(layout):
        raise ValueError(f"the state is of another model: it has {len(state)} layers, not {len(layout)}")
    for index, (layer, expected) in enumerate(zip(state, layout, strict=True)):
        if not isinstance(layer, expected.kind):
            kinds = f"{type(layer).__name__}, not {expected.kind.__name__}"
            raise ValueError(f"the state is of another model: layer {index} holds {kinds}")
        for tensor, size in zip(layer, expected.sizes, strict=True):
            if tensor.shape != (rows, *size) and not _fits(tuple(tensor.shape), rows, size):
                raise ValueError(_misfit(index, layer, expected, rows))


def _concat_layers(layers: Sequence[Any]) -> Any:
    growing = getattr(layers[0], "growing", {})
    fields = []
    for field, tensors in zip(layers[0]._fields, zip(*layers, strict=True), strict=True):
        if field in growing:
            dim = growing[field]
            longest = max(tensor.shape[dim] for tensor in tensors)
            tensors = [_lengthened(tensor, dim, longest) for tensor in tensors]
        fields.append(torch.cat(list(tensors)))
    return type(layers[0])(*fields)


def _lengthened(x: Tensor, dim: int, length: int) -> Tensor:
    missing = list(x.shape)
    missing[dim] = length - x.shape[dim]
    return torch.cat([x, x.new_zeros(missing)], dim=dim)


def _fits(shape: tuple[int, ...], rows: int, size: tuple[int, ...]) -> bool:
    if len(shape) != len(size) + 1 or shape[0] != rows:
        return False
    return all(wanted in (ANY, found) for wanted, found in zip(size, shape[1:], strict=True))


def _misfit(index: int, layer: Any, expected: LayerLayout, rows: int) -> str:
    for field, tensor, size in zip(layer._fields, layer, expected.sizes, strict=True):
        shape = tuple(tensor.shape)
        if not _fits(shape, shape[0] if shape else 0, size):
            sizes = f"{_times(shape[1:])} a row, not {_times(size)}"
            return f"the state is of another model: {field} of layer {index} holds {sizes}"
    counts = [tensor.shape[0] for tensor in layer]
    found = counts[0]
    if counts != [found] * len(counts):
        return (
            f"the rows of the state are unequal: layer {index} holds {counts} in {', '.join(layer._fields)}"
        )
    remedy = "expand_state copies it" if found == 1 else "expand_state copies rows, select_state picks them"
    return f"the state is of {_rows(found)}, the tokens of {rows}: {remedy}"


def _sizes(layer: Any) -> list[tuple[int, ...]]:
    growing = getattr(layer, "growing", {})
    sizes = []
    for field, tensor in zip(layer._fields, layer, strict=True):
        grown = growing.get(field)
        sizes.append(tuple(ANY if dim == grown else size for dim, size in enumerate(tensor.shape))[1:])
    return sizes


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _times(size: Sequence[int]) -> str:
    return " x ".join("any" if number == ANY else str(number) for number in size) or "one number"
