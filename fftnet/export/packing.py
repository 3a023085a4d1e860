"""The state of a model as few tensors: a runtime spends time on each that goes in or comes out.

The tensors of one field, of all layers where they are alike, lie one after the other in dimension 1 of one
tensor. A tensor that grows with the text, or has no dimension 1, stays alone. And what a state says is
``common`` to all layers, such as the number of tokens read, is there once.
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
    common: bool
    """Whether it is the same in all of them."""

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor of those of the layers."""
        return tensors[0] if self.common or len(tensors) == 1 else torch.cat(list(tensors), dim=1)

    def part(self, tensor: Tensor) -> Sequence[Tensor]:
        """The tensors of the layers."""
        count = len(self.layers)
        return [tensor] * count if self.common or count == 1 else tensor.chunk(count, dim=1)


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
                common = field in getattr(layer, "common", ())
                alone = field in growing or (tensor.ndim == 1 and not common)
                key = (field, tensor.shape[1:], tensor.dtype, common, number if alone else None)
                before = alike[key].layers if key in alike else ()
                alike[key] = Packed(
                    field=field, layers=(*before, number), grows=growing.get(field), common=common
                )
        self.tensors = sorted(alike.values(), key=lambda packed: packed.layers)
        """In their order: what belongs to the same layers is together."""

    def pack(self, state: State) -> list[Tensor]:
        """The tensors that hold the states of all layers."""
        return [
            packed.join([getattr(state[n], packed.field) for n in packed.layers]) for packed in self.tensors
        ]

    def unpack(self, tensors: Sequence[Tensor]) -> State:
        """The state that ``pack`` gave these of."""
        fields: list[dict[str, Tensor]] = [{} for _ in self._types]
        for packed, tensor in zip(self.tensors, tensors, strict=True):
            for number, part in zip(packed.layers, packed.part(tensor), strict=True):
                fields[number][packed.field] = part
        return tuple(kind(**found) for kind, found in zip(self._types, fields, strict=True))
