"""The state of a model as few tensors: a runtime spends time on each that goes in or comes out.

The tensors of one field, of all layers where they are alike, lie one after the other in dimension 1 of one
tensor. A tensor that grows with the text stays alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fftnet.model.state import State


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One tensor of a packed state."""

    field: str
    """Of the layers' states."""
    layers: tuple[int, ...]
    """Whose tensors it holds."""
    grows: int | None
    """The dimension that grows with what was read."""
    is_number: bool
    """Whether each layer has one number a row."""

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor of those of the layers."""
        if len(tensors) == 1:
            return tensors[0]
        return torch.stack(list(tensors), dim=1) if self.is_number else torch.cat(list(tensors), dim=1)

    def part(self, tensor: Tensor) -> Sequence[Tensor]:
        """The tensors of the layers."""
        if len(self.layers) == 1:
            return [tensor]
        parts = tensor.chunk(len(self.layers), dim=1)
        return [part[:, 0] for part in parts] if self.is_number else parts


class Packing:
    """How the states of a model are packed.

    Args:
        state: of the model, of any rows, on any device.
    """

    def __init__(self, state: State) -> None:
        self._types = [type(layer) for layer in state]
        alike: dict[tuple[object, ...], Packed] = {}
        for number, layer in enumerate(state):
            growing = getattr(layer, "growing", {})
            for field, tensor in zip(layer._fields, layer, strict=True):
                grows = growing.get(field)
                key = (field, tensor.shape[1:], tensor.dtype, None if grows is None else number)
                before = alike[key].layers if key in alike else ()
                alike[key] = Packed(
                    field=field, layers=(*before, number), grows=grows, is_number=tensor.ndim == 1
                )
        self.tensors = sorted(alike.values(), key=lambda packed: packed.layers)
        """In their order: what belongs to the same layers is together."""

    def pack(self, state: State) -> list[Tensor]:
        """The tensors that hold the states of all layers."""
        return [packed.join([getattr(state[n], packed.field) for n in packed.layers]) for packed in self.tensors]

    def unpack(self, tensors: Sequence[Tensor]) -> State:
        """The state that ``pack`` gave these of."""
        fields: list[dict[str, Tensor]] = [{} for _ in self._types]
        for packed, tensor in zip(self.tensors, tensors, strict=True):
            for number, part in zip(packed.layers, packed.part(tensor), strict=True):
                fields[number][packed.field] = part
        return tuple(kind(**found) for kind, found in zip(self._types, fields, strict=True))
