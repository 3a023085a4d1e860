"""The base class of all mixers."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


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


def packed(x: Tensor) -> Tensor:
    """``x`` in memory of its own size, with the strides of a new tensor, for a state that is kept.

    A slice of a larger tensor keeps all of that alive. And where a dimension is 1, a tensor may be contiguous
    and yet have other strides, for which torch.compile would compile a step again.
    """
    return x.clone(memory_format=torch.contiguous_format)


def device_of(weight: Tensor) -> torch.device | None:
    """Where a state lies whose device nobody named: with the weights, or None where these are offloaded."""
    return None if weight.is_meta else weight.device
