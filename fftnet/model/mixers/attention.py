"""Causal self-attention with rotary positions: the baseline, and a few layers of a hybrid model."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.model.config import MixerConfig
from fftnet.ops import attention


class AttentionState(NamedTuple):
    """The keys and values of every token read. A row's token of position s lies in slot s.

    The buffers are shared by the states of one text. ``filled`` counts the tokens in them, so a state knows
    whether a later one has written behind it: the newest appends in place, any other copies first. A decode
    step therefore moves one token, not the whole cache, and no state changes under its owner.
    """

    keys_BHCd: Tensor
    """Buffer of C >= max(count_B) slots, zero where nothing was written."""
    values_BHCd: Tensor
    """Buffer of the same shape."""
    count_B: Tensor
    """int64 number of tokens that this state has read, on the CPU."""
    filled: Tensor
    """int64 scalar on the CPU, the same object in all states that share the buffers."""


class AttentionMixer(nn.Module):
    """Queries, keys and values; rotary positions; softmax over the past; output projection.

    Exactly causal. Cost O(T^2 D) for a text, and for one more token time and memory that grow with the text.

    Raises:
        ValueError: if the width of a head is odd, since rotary positions turn pairs of channels.
    """

    causal = True

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        width, heads = config.d_model, config.num_heads
        if width // heads % 2:
            raise ValueError(
                f"attention needs an even head width, got {width // heads} from d_model={width} "
                f"and num_heads={heads}"
            )
        self.num_heads = heads
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)

    def init_state(self, batch_size: int) -> AttentionState:
        """The state before the first token: no slots yet, on the device of the weights."""
        width = self.project_out.in_features
        shape = (batch_size, self.num_heads, 0, width // self.num_heads)
        empty = self.project_out.weight.detach().new_zeros(shape)
        count_B = torch.zeros(batch_size, dtype=torch.int64)
        return AttentionState(empty, empty, count_B, torch.zeros((), dtype=torch.int64))

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Mix (B, T, D) causally; see :meth:`prefill`."""
        if mask_BT is not None:
            return self.prefill(x_BTD, self.init_state(x_BTD.shape[0]), mask_BT)[0]
        q, k, v = self._project(x_BTD, torch.arange(x_BTD.shape[1], device=x_BTD.device)[None])
        return self.project_out(attention.causal_attention(q, k, v).flatten(2))

    def prefill(
        self, x_BTD: Tensor, state: AttentionState, mask_BT: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Mix T tokens that follow what ``state`` has read.

        Args:
            x_BTD: tokens, T >= 1.
            state: from :meth:`init_state` or an earlier call; it stays valid.
            mask_BT: boolean; a False token is not read, wherever it stands, and takes up no position.

        Returns:
            Mixed tokens (B, T, D) in the dtype that came, and the new state.

        Raises:
            ValueError: on an empty sequence.
        """
        start_B1 = state.count_B.to(x_BTD.device)[:, None]
        if mask_BT is None:
            position_BT = start_B1 + torch.arange(x_BTD.shape[1], device=x_BTD.device)
        else:
            position_BT = (start_B1 + mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        q, k, v = self._project(x_BTD, position_BT)
        aligned = mask_BT is None and bool((state.count_B == state.count_B[:1]).all())
        state = _append(state, k, v, position_BT, mask_BT, aligned)
        seen = max(int(state.count_B.max()), 1)
        keys, values = (cache[:, :, :seen].transpose(1, 2) for cache in state[:2])
        mixed_BTHd = attention.causal_attention(q, keys, values, None if aligned else position_BT)
        return self.project_out(mixed_BTHd.flatten(2)), state

    def step(self, x_BD: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Mix one token (B, D): the same arithmetic at T = 1."""
        mixed_BTD, state = self.prefill(x_BD[:, None], state)
        return mixed_BTD[:, 0], state

    def _project(self, x_BTD: Tensor, position_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if x_BTD.shape[1] == 0:
            raise ValueError("attention needs at least one token, got a sequence of length 0")
        q, k, v = self.project_in(x_BTD).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        return attention.rotate(q, position_BT), attention.rotate(k, position_BT), v


def _append(
    state: AttentionState,
    k_BTHd: Tensor,
    v_BTHd: Tensor,
    position_BT: Tensor,
    mask_BT: Tensor | None,
    aligned: bool,
) -> AttentionState:
    keys, values, count_B, filled = state
    added_B = torch.tensor(k_BTHd.shape[1]) if mask_BT is None else mask_BT.sum(dim=1).cpu()
    before, total_B = int(count_B.max()), count_B + added_B
    # A write into a buffer that autograd has recorded would spoil the backward pass of an earlier call, so
    # a recorded call gets buffers of its own, without room behind them.
    recorded = k_BTHd.requires_grad
    if recorded or int(filled) != int(count_B.sum()) or int(total_B.max()) > keys.shape[2]:
        slots = max(int(total_B.max()), 0 if recorded else 2 * before, 1)
        shape = (*keys.shape[:2], slots, keys.shape[3])
        keys, values = k_BTHd.new_zeros(shape), v_BTHd.new_zeros(shape)
        keys[:, :, :before] = state.keys_BHCd[:, :, :before]
        values[:, :, :before] = state.values_BHCd[:, :, :before]
        filled = torch.zeros_like(filled)
    for cache, new_BTHd in ((keys.transpose(1, 2), k_BTHd), (values.transpose(1, 2), v_BTHd)):
        if aligned:
            cache[:, before : before + new_BTHd.shape[1]] = new_BTHd
        else:
            read_BT = torch.ones_like(position_BT, dtype=torch.bool) if mask_BT is None else mask_BT
            cache[read_BT.nonzero()[:, 0], position_BT[read_BT]] = new_BTHd[read_BT].to(cache.dtype)
    filled.fill_(int(total_B.sum()))
    return AttentionState(keys, values, total_B, filled)
