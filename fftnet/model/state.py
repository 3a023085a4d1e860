"""States of causal models as values: copied, selected, concatenated, saved and loaded.

A state represents everything that a model has read: a tuple with one ``NamedTuple`` of tensors for each
layer. The first dimension of every tensor counts rows. A model never changes a state that it was given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fftnet import serialization
from fftnet.fields import MAX_COUNT
from fftnet.serialization import CheckpointError

State = tuple[Any, ...]
"""One state per layer. Only states of attention grow with the number of tokens read."""

ANY = -1
"""Size, in a layout, of a dimension that grows with the number of tokens read."""


class Stateful(Protocol):
    """A model with states."""

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """Return the state before the first token."""
        ...


class LayerLayout(NamedTuple):
    """Type and shapes of the state of a layer."""

    kind: type
    sizes: tuple[tuple[int, ...], ...]
    """Shape of each tensor without the dimension of rows; ``ANY`` for a dimension that grows."""


Layout = tuple[LayerLayout, ...]


def expand_state(state: State, copies: int) -> State:
    """Repeat every row ``copies`` >= 1 times, like ``repeat_interleave``.

    Returns:
        A state of B * copies rows that shares no memory with ``state``.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")
    return select_state(state, torch.arange(num_rows(state)).repeat_interleave(copies))


def select_state(state: State, rows: Tensor | Sequence[int]) -> State:
    """Select rows, in the given order, for example surviving beams or unfinished prompts.

    Args:
        state: state of B rows; it stays unchanged.
        rows: int64 indices (N,) in [0, B), which may repeat, or a boolean mask (B,) of the rows to keep; at
            least one.

    Returns:
        A state of the selected rows that shares no memory with ``state``.

    Raises:
        ValueError: if no row is selected, or an index is out of range.
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
    lowest, highest = int(index.min()), int(index.max())
    if lowest < 0 or highest >= count:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"the state is of {_rows(count)}, so there is no row {wrong}")
    # Each tensor is indexed on its own device: counts of attention stay on the CPU.
    index = index.long()
    return tuple(
        type(layer)(*(tensor.index_select(0, index.to(tensor.device)) for tensor in layer)) for layer in state
    )


def concat_states(states: Sequence[State]) -> State:
    """Concatenate the rows of several states of one model, at least one.

    Returns:
        A state of all rows that shares no memory with ``states``. Tensors that grow are padded with zeros to
            the longest.

    Raises:
        ValueError: if ``states`` is empty, or they belong to different models.
    """
    if not states:
        raise ValueError("there is no state to concatenate")
    layouts = [layout_of(state) for state in states]
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError("the states are of different models")
    return tuple(_concat_layers(layers) for layers in zip(*states, strict=True))


def save_state(state: State, path: str | Path) -> None:
    """Write a state as safetensors; CheckpointError if the file can't be written."""
    serialization.write_tensors(Path(path), state_tensors(state))


def load_state(path: str | Path, model: Stateful) -> State:
    """Read a state that ``save_state`` wrote, onto the device and in the dtype of a model of the same sizes.

    Raises:
        CheckpointError: naming the file, if it is missing, damaged or of another model.
    """
    stored = serialization.read_tensors(Path(path))
    # A new state of the model defines the names, types and shapes that the file must have.
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


def state_tensors(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state, not copied, by the name ``layer.field``."""
    return {
        f"{index}.{field}": tensor
        for index, layer in enumerate(state)
        for field, tensor in layer._asdict().items()
    }


def state_of_tensors(tensors: Mapping[str, Tensor], like: State) -> State:
    """Return the state with these tensors: the inverse of ``state_tensors``.

    ``like`` is a state of the same model with any rows, which defines types, devices and dtypes. A tensor is
    copied only if device or dtype differ.
    """
    layers = []
    for index, layer in enumerate(like):
        named = layer._asdict().items()
        fields = {field: tensors[f"{index}.{field}"].to(x.device, x.dtype) for field, x in named}
        layers.append(type(layer)(**fields))
    return tuple(layers)


def num_rows(state: State) -> int:
    """Return the number of rows B of a state."""
    shape = state[0][0].shape
    return shape[0] if shape else 0


def layout_of(state: State) -> Layout:
    """Return the layout that all states of the model have.

    The type of a state may have two class attributes: ``growing`` maps fields to the dimension that grows
    with the tokens read; ``common`` names fields equal in all layers, which exported models store once.
    """
    layout = []
    for layer in state:
        growing = getattr(layer, "growing", {})
        sizes = (
            tuple(ANY if dim == growing.get(field) else size for dim, size in enumerate(tensor.shape))[1:]
            for field, tensor in layer._asdict().items()
        )
        layout.append(LayerLayout(type(layer), tuple(sizes)))
    return tuple(layout)


def check_state(state: State, layout: Layout, rows: int) -> None:
    """Refuse a state of another model or with another number of rows than the tokens."""
    # This runs at every decode step. So it only compares shapes, and looks for words after a difference.
    if len(state) != len(layout):
        raise ValueError(f"the state is of another model: it has {len(state)} layers, not {len(layout)}")
    for index, (layer, expected) in enumerate(zip(state, layout, strict=True)):
        if not isinstance(layer, expected.kind):
            kinds = f"{type(layer).__name__}, not {expected.kind.__name__}"
            raise ValueError(f"the state is of another model: layer {index} holds {kinds}")
        for tensor, size in zip(layer, expected.sizes, strict=True):
            if tensor.shape != (rows, *size) and not _fits(tuple(tensor.shape), rows, size):
                raise ValueError(_misfit(index, layer, expected, rows))


def _check_counts(state: State) -> None:
    """Refuse negative numbers of tokens, and numbers above the slots of tensors that grow."""
    for index, layer in enumerate(state):
        growing = getattr(layer, "growing", {})
        most = min((getattr(layer, field).shape[dim] for field, dim in growing.items()), default=MAX_COUNT)
        for field, tensor in layer._asdict().items():
            if not tensor.is_floating_point() and bool(((tensor < 0) | (tensor > most)).any()):
                raise ValueError(f"{field} of layer {index} must lie between 0 and {most}")


def _concat_layers(layers: Sequence[Any]) -> Any:
    kind = type(layers[0])
    growing = getattr(kind, "growing", {})
    fields = []
    for field, tensors in zip(kind._fields, zip(*layers, strict=True), strict=True):
        if field in growing:
            dim = growing[field]
            longest = max(x.shape[dim] for x in tensors)
            # Slots beyond the count of a row are never read, so zeros are as good as any other value.
            after = tensors[0].ndim - 1 - dim
            tensors = [functional.pad(x, (0, 0) * after + (0, longest - x.shape[dim])) for x in tensors]
        fields.append(torch.cat(list(tensors)))
    return kind(*fields)


def _fits(shape: tuple[int, ...], rows: int, size: tuple[int, ...]) -> bool:
    if len(shape) != len(size) + 1 or shape[0] != rows:
        return False
    return all(wanted in (ANY, found) for wanted, found in zip(size, shape[1:], strict=True))


def _misfit(index: int, layer: Any, expected: LayerLayout, rows: int) -> str:
    """Describe the first difference between the state of a layer and its layout."""
    # Another width or number of heads is another model; only then can rows be to blame.
    for field, tensor, size in zip(layer._fields, layer, expected.sizes, strict=True):
        shape = tuple(tensor.shape)
        if not _fits(shape, shape[0] if shape else 0, size):
            sizes = f"{_times(shape[1:])} a row, not {_times(size)}"
            return f"the state is of another model: {field} of layer {index} holds {sizes}"
    counts = [tensor.shape[0] for tensor in layer]
    if len(set(counts)) > 1:
        fields = ", ".join(layer._fields)
        return f"the rows of the state are unequal: layer {index} holds {counts} in {fields}"
    several = "expand_state copies rows, select_state picks them"
    remedy = "expand_state copies it" if counts[0] == 1 else several
    return f"the state is of {_rows(counts[0])}, the tokens of {rows}: {remedy}"


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _times(size: Sequence[int]) -> str:
    return " x ".join("any" if number == ANY else str(number) for number in size) or "one number"
