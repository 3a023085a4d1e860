"""A model as programs of tensors: what is traced, whatever format it is written in.

A state goes in as the tensors of its ``Packing``, one after the other, and the next one comes out likewise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fftnet.export.packing import Packing
from fftnet.model.fftnet_model import FFTNet


class StatefulProgram(nn.Module):
    """A program of a causal model.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: FFTNet) -> None:
        super().__init__()
        self.model = model
        self.packing = Packing(model.init_state(1, "meta"))


class PrefillProgram(StatefulProgram):
    """Ids (B, T) and a state to the logits (B, V) after them, and the next state."""

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read T tokens."""
        logits_B1V, after = self.model.prefill(tokens, self.packing.unpack(state), logits_to_keep=1)
        return logits_B1V[:, 0], *self.packing.pack(after)


class StepProgram(StatefulProgram):
    """Ids (B,) and a state to logits (B, V), the next state and, where mixers have filters, their magnitude.

    That is (B, L, H, F) at the token that is read, of the L layers in ``filter_bins``; a layer with fewer
    bins than another has zeros behind them.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: FFTNet) -> None:
        super().__init__(model)
        self.filter_bins = {number: filter_.shape[2] for number, filter_ in self._first_filters().items()}
        """Number of each layer whose mixer has a filter, to its bins F."""

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read one token."""
        with self._watched() as filters:
            logits_BV, after = self.model.step(token, self.packing.unpack(state))
        if not filters:
            return logits_BV, *self.packing.pack(after)
        bins = max(self.filter_bins.values())
        padded = [
            functional.pad(filters[n], (0, bins - size)) if size < bins else filters[n]
            for n, size in self.filter_bins.items()
        ]
        return logits_BV, *self.packing.pack(after), torch.stack(padded, dim=1)

    @torch.no_grad()
    def _first_filters(self) -> dict[int, Tensor]:
        token_B = torch.zeros(1, dtype=torch.int64, device=self.model.device)
        with self._watched() as filters:
            self.model.step(token_B, self.model.init_state(1))
        return filters

    @contextmanager
    def _watched(self) -> Iterator[dict[int, Tensor]]:
        """Note the filter of every mixer that is handed a token within the block, by the layer's number."""
        filters: dict[int, Tensor] = {}

        def note(number: int, mixer: Any, arguments: tuple[Any, ...]) -> None:
            x, _, state = arguments
            filter_at = getattr(mixer, "filter_at", None)
            found = None if filter_at is None else filter_at(x if x.ndim == 2 else x[:, 0], state)
            if found is not None:
                filters[number] = found

        layers = enumerate(self.model.backbone.layers)
        hooks = [layer.mixer.register_forward_pre_hook(partial(note, number)) for number, layer in layers]  # pyright: ignore
        try:
            yield filters
        finally:
            for hook in hooks:
                hook.remove()


class EncoderProgram(nn.Module):
    """Ids (B, T) to the logits (B, T, V) and the hidden states (B, T, D) of a bidirectional model.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: FFTNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read T tokens, none of them padding."""
        hidden = self.model.backbone(self.model.embedding(tokens))
        return self.model.embedding(hidden), hidden
