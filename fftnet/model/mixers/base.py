"""Base classes of all mixers."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fftnet.model.checks import check_input
from fftnet.ops import padding


class Mixer(nn.Module):
    """Replacement of self-attention: maps tokens (B, T, D), T >= 1, to mixed tokens (B, T, D).

    ``mixer(x, attention_mask=None)`` returns the mixed tokens in the dtype of ``x``. With a state, a causal
    mixer reads tokens that follow those of the state: ``mixer(x, attention_mask, state)`` returns the pair of
    mixed tokens and new state. A state is a ``NamedTuple`` of tensors whose first dimension counts rows; a
    mixer never writes into one it was given.

    ``attention_mask`` is boolean (B, T), False at padding, which may stand anywhere and hold anything: mixed
    tokens and states are those of each row's tokens alone.

    Call a mixer only through ``__call__``: hooks of sharding, offloading and adapters run nowhere else. At a
    decode step a layer holds a single token as (B, D). It passes this on to a mixer with ``reads_one_token``,
    and (B, 1, D) to any other.

    Args:
        d_model: width D of a token.
        num_heads: H, for mixers that have heads; a ValueError if it does not divide D.
        config: an instance of ``Config`` (None: its defaults).
    """

    causal: ClassVar[bool] = False
    """True if no position sees a later one."""
    reads_one_token: ClassVar[bool] = False
    """True if x may be one token (B, D) when a state is given, with a result (B, D): faster decode steps."""
    grows: ClassVar[bool] = False
    """True if the state grows with the number of tokens read."""
    Config: ClassVar[type[Any]]
    """Frozen dataclass of the mixer's fields, all with defaults; their docstrings are the help of flags."""

    def __init__(self, d_model: int, num_heads: int = 2, config: Any = None) -> None:
        super().__init__()
        self.d_model = d_model
        self.num_heads = num_heads

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Any:
        """Return a causal mixer's state before the first token, on a device (None: that of the weights)."""
        raise ValueError(f"{type(self).__name__} has no state: it sees the whole sequence at once")

    def filter_at(self, x: Tensor, state: Any) -> Tensor | None:
        """Return the magnitude (B, H, F) of each head's filter at one token (B, D), or None, for plots."""
        return None


class ByLengthMixer(Mixer):
    """Bidirectional mixer whose result depends on the length of the row, such as a Fourier transform.

    A subclass defines ``_mix``, which maps rows (B, T, D) without padding. Rows with padding are mixed at
    their own length, so that padding and batch-mates change nothing; padding gives 0.
    """

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mix tokens (B, T, D), as ``Mixer`` describes."""
        check_input(x, self.d_model, attention_mask)
        if attention_mask is None:
            return self._mix(x)
        return padding.by_length(x, attention_mask, self._mix)

    def _mix(self, x_BTD: Tensor) -> Tensor:
        raise NotImplementedError


class SteppingMixer(Mixer):
    """Causal mixer with a state of fixed size and a separate, faster form for one token.

    A subclass defines ``init_state``, ``_read(x (B, T, D), mask, state)`` and ``_step(x (B, D), state)``.
    Both return the mixed tokens and the new state. The mask is None, or boolean (B, T) with all padding
    behind the tokens of its row; then padding must not change the new state.
    """

    causal = True
    reads_one_token = True

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: Any | None = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Mix tokens (B, T, D), with a state also one token (B, D), as ``Mixer`` describes."""
        # The decode step comes first and checks little: it runs once per token and layer.
        if state is not None and x.ndim == 2 and x.shape[1] == self.d_model and attention_mask is None:
            return self._step(x, state)
        check_input(x, self.d_model, attention_mask)
        if attention_mask is not None:
            return self._read_masked(x, attention_mask, state)
        if state is None:
            return self._read(x, None, self.init_state(x.shape[0], x.device))[0]
        # One token of a longer form: the step needs fewer operations than the operators for T tokens.
        if x.shape[1] == 1:
            mixed, state = self._step(x[:, 0], state)
            return mixed[:, None], state
        return self._read(x, None, state)

    def _read_masked(self, x_BTD: Tensor, mask_BT: Tensor, state: Any | None) -> Tensor | tuple[Tensor, Any]:
        x_BTD, mask_BT, place_BT = padding.tokens_first(x_BTD, mask_BT)
        if state is None:
            # The mixer is causal, so padding behind the tokens can't change them: no mask is needed.
            mixed_BTD, _ = self._read(x_BTD, None, self.init_state(x_BTD.shape[0], x_BTD.device))
            return padding.reorder(mixed_BTD, place_BT)
        mixed_BTD, state = self._read(x_BTD, mask_BT, state)
        return padding.reorder(mixed_BTD, place_BT), state

    def _read(self, x_BTD: Tensor, mask_BT: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def _step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError


def packed(x: Tensor) -> Tensor:
    """Return a contiguous copy with the default strides, for a state that is kept."""
    # A slice would keep the whole larger tensor in memory. And with other strides at a dimension of size 1,
    # torch.compile would compile a decode step again.
    return x.clone(memory_format=torch.contiguous_format)


def device_of(weight: Tensor) -> torch.device | None:
    """Return the default device of a new state: that of the weights, or None if these are offloaded."""
    return None if weight.is_meta else weight.device
