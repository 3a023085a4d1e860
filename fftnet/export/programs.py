"""Programs of tensors that are traced for an export, and the packing of states into few tensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fftnet.model.fftnet_model import FFTNet
from fftnet.model.state import State


class Packed(NamedTuple):
    """One tensor of a packed state."""

    field: str
    layers: tuple[int, ...]
    """Numbers of the layers whose tensors it holds."""
    grows: int | None
    """Dimension that grows with the text."""
    common: bool
    """True if the tensor is equal in all these layers and held once."""


class Packing:
    """Layout of a state in few tensors: each input and output of a program takes time.

    Tensors of one field and shape are concatenated in dimension 1, over all layers. Tensors that grow with
    the text, or have no dimension 1, stay alone. Fields that are ``common`` to all layers are held once.
    """

    def __init__(self, state: State) -> None:
        self._types = [type(layer) for layer in state]
        alike: dict[tuple[object, ...], Packed] = {}
        for number, layer in enumerate(state):
            growing = getattr(layer, "growing", {})
            for field, tensor in zip(layer._fields, layer, strict=True):
                # The number of tokens read, for example, is the same in all layers.
                common = field in getattr(layer, "common", ())
                alone = field in growing or (tensor.ndim == 1 and not common)
                key = (field, tensor.shape[1:], tensor.dtype, common, number if alone else None)
                before = alike[key].layers if key in alike else ()
                alike[key] = Packed(field, (*before, number), growing.get(field), common)
        self.tensors = sorted(alike.values(), key=lambda packed: packed.layers)
        """Descriptions of the tensors in their order; those of the same layers are neighbours."""

    def pack(self, state: State) -> list[Tensor]:
        """Return the tensors that hold the states of all layers."""
        tensors = []
        for field, layers, _, common in self.tensors:
            parts = [getattr(state[number], field) for number in layers]
            tensors.append(parts[0] if common or len(parts) == 1 else torch.cat(parts, dim=1))
        return tensors

    def unpack(self, tensors: Sequence[Tensor]) -> State:
        """Return the state that ``pack`` made these tensors of."""
        fields: list[dict[str, Tensor]] = [{} for _ in self._types]
        for (field, layers, _, common), tensor in zip(self.tensors, tensors, strict=True):
            count = len(layers)
            parts = [tensor] * count if common or count == 1 else tensor.chunk(count, dim=1)
            for number, part in zip(layers, parts, strict=True):
                fields[number][field] = part
        return tuple(kind(**found) for kind, found in zip(self._types, fields, strict=True))


class StatefulProgram(nn.Module):
    """Base class of the programs of a causal model, which must be in evaluation mode."""

    def __init__(self, model: FFTNet) -> None:
        super().__init__()
        self.model = model
        self.packing = Packing(model.init_state(1, "meta"))


class PrefillProgram(StatefulProgram):
    """Program from ids (B, T) and a state to logits (B, V) of the next token and the next state."""

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read T tokens."""
        logits_B1V, after = self.model.prefill(tokens, self.packing.unpack(state), logits_to_keep=1)
        return logits_B1V[:, 0], *self.packing.pack(after)


class StepProgram(StatefulProgram):
    """Program from ids (B,) and a state to logits (B, V), the next state and the filters (B, L, H, F).

    The filters are magnitudes at the token, of the L layers in ``filter_bins``. A layer with fewer than F
    bins is padded with zeros. A model without filters has no such output.
    """

    def __init__(self, model: FFTNet) -> None:
        super().__init__(model)
        token_B = torch.zeros(1, dtype=torch.int64, device=model.device)
        with torch.no_grad(), self._recorded() as filters:
            model.step(token_B, model.init_state(1))
        self.filter_bins = {number: filter_.shape[2] for number, filter_ in filters.items()}
        """Number of bins of each layer whose mixer has a filter."""

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read one token."""
        with self._recorded() as filters:
            logits_BV, after = self.model.step(token, self.packing.unpack(state))
        if not filters:
            return logits_BV, *self.packing.pack(after)
        # Layers may differ in their number of bins; one output needs one shape.
        bins = max(self.filter_bins.values())
        padded = [
            functional.pad(filters[n], (0, bins - size)) if size < bins else filters[n]
            for n, size in self.filter_bins.items()
        ]
        return logits_BV, *self.packing.pack(after), torch.stack(padded, dim=1)

    @contextmanager
    def _recorded(self) -> Iterator[dict[int, Tensor]]:
        """Record the filters of the mixers that run within the block, by the layer's number."""
        filters: dict[int, Tensor] = {}

        # A hook sees the input and the state of a mixer, which the model does not return.
        def record(number: int, mixer: Any, arguments: tuple[Any, ...]) -> None:
            x, _, state = arguments
            filter_at = getattr(mixer, "filter_at", None)
            found = None if filter_at is None else filter_at(x if x.ndim == 2 else x[:, 0], state)
            if found is not None:
                filters[number] = found

        layers = enumerate(self.model.backbone.layers)
        hooks = [layer.mixer.register_forward_pre_hook(partial(record, number)) for number, layer in layers]  # pyright: ignore
        try:
            yield filters
        finally:
            for hook in hooks:
                hook.remove()


class EncoderProgram(nn.Module):
    """Program from ids (B, T) to logits (B, T, V) and hidden states (B, T, D) of a bidirectional model."""

    def __init__(self, model: FFTNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read T tokens without padding."""
        hidden = self.model.backbone(self.model.embedding(tokens))
        return self.model.embedding(hidden), hidden
