"""The base class of all mixers."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fftnet.model.checks import check_input
from fftnet.ops import padding


class Mixer(nn.Module):
    """Stands in the place of self-attention: maps (B, T, D) to (B, T, D).

    Everything goes through ``__call__``, since the hooks of sharding, offloading and adapters fire there
    only: ``mixer(x, attention_mask=None)`` gives the mixed tokens, and where a causal mixer is handed a
    state, ``mixer(x, attention_mask, state)`` gives the mixed tokens and the state after them. A state is a
    ``NamedTuple`` of tensors whose first dimension counts rows, and is never changed under its owner.

    A layer is handed a single token as (B, D) at a decode step. It hands that on as it is to a mixer with
    ``reads_one_token``, and as (B, 1, D) to any other, so that a mixer need not know of the shortcut.

    Args:
        d_model: width D of a token.
        num_heads: H, for mixers that have heads.
        config: an instance of ``Config`` (None: its defaults).
    """

    causal: ClassVar[bool] = False
    """Whether no position sees a later one."""
    reads_one_token: ClassVar[bool] = False
    """Whether x may also be one token (B, D) where a state comes with it, and (B, D) is returned: a shortcut
    for decode steps, in place of (B, 1, D)."""
    grows: ClassVar[bool] = False
    """Whether its state grows with what was read."""
    Config: ClassVar[type[Any]]
    """A frozen dataclass of the mixer's own fields, all with defaults; their docstrings explain flags."""

    def __init__(self, d_model: int, num_heads: int = 2, config: Any = None) -> None:
        super().__init__()
        self.d_model = d_model
        self.num_heads = num_heads

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Any:
        """The state before the first token.

        Args:
            batch_size: rows B.
            device: where the state lies (None: where the weights do).

        Raises:
            ValueError: if the mixer is not causal.
        """
        raise ValueError(f"{type(self).__name__} has no state: it sees the whole sequence at once")

    def filter_at(self, x: Tensor, state: Any) -> Tensor | None:
        """Magnitude of the filter with which each head reads its bins at one token, for a picture of it.

        Args:
            x: the token, (B, D).
            state: before the token.

        Returns:
            (B, H, F), or None of a mixer that has no such filter.
        """
        return None


class SteppingMixer(Mixer):
    """A causal mixer with a state of fixed size, which has a form of its own for one token.

    A subclass makes states (``init_state``) and reads: ``_read(x (B, T, D), mask, state)`` and
    ``_step(x (B, D), state)``, both of which return the mixed tokens and the new state. The mask is None, or
    boolean (B, T) with all padding behind the tokens of its row, where it must not change the state.
    """

    causal = True
    reads_one_token = True

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: Any | None = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Mix T tokens causally; with a state, tokens that follow what it has read.

        Args:
            x: tokens (B, T, D), T >= 1; with a state also one token (B, D).
            attention_mask: boolean (B, T). A False token is not read, wherever it stands: the others and the
                state are what they would be without it.
            state: from ``init_state`` or an earlier call; None starts a text.

        Returns:
            Mixed tokens of the shape and dtype that came; with a state the pair of these and the new state.

        Raises:
            ValueError: on an empty sequence, or shapes that do not belong together.
        """
        if state is not None and x.ndim == 2 and x.shape[1] == self.d_model and attention_mask is None:
            return self._step(x, state)
        check_input(x, self.d_model, attention_mask)
        if attention_mask is not None:
            return self._read_masked(x, attention_mask, state)
        if state is None:
            return self._read(x, None, self.init_state(x.shape[0], x.device))[0]
        if x.shape[1] == 1:
            mixed, state = self._step(x[:, 0], state)
            return mixed[:, None], state
        return self._read(x, None, state)

    def _read_masked(self, x_BTD: Tensor, mask_BT: Tensor, state: Any | None) -> Tensor | tuple[Tensor, Any]:
        x_BTD, mask_BT, place_BT = padding.tokens_first(x_BTD, mask_BT)
        if state is None:
            mixed_BTD, _ = self._read(x_BTD, None, self.init_state(x_BTD.shape[0], x_BTD.device))
            return padding.reorder(mixed_BTD, place_BT)
        mixed_BTD, state = self._read(x_BTD, mask_BT, state)
        return padding.reorder(mixed_BTD, place_BT), state

    def _read(self, x_BTD: Tensor, mask_BT: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def _step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError


def packed(x: Tensor) -> Tensor:
    """``x`` in memory of its own size, with the strides of a new tensor, for a state that is kept.

    A slice of a larger tensor keeps all of that alive. And where a dimension is 1, a tensor may be contiguous
    and yet have other strides, for which torch.compile would compile a step again.
    """
    return x.clone(memory_format=torch.contiguous_format)


def device_of(weight: Tensor) -> torch.device | None:
    """Where a state lies whose device nobody named: with the weights, or None where these are offloaded."""
    return None if weight.is_meta else weight.device
