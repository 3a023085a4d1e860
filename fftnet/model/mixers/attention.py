"""Causal self-attention with rotary positions: the baseline, and a few layers of a hybrid model."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fftnet.fields import documented
from fftnet.model.checks import check_input
from fftnet.model.mixers.base import device_of
from fftnet.model.mixers.rotary_attention import RotaryAttention
from fftnet.ops import attention


@documented
@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Nothing to choose beside the heads."""


class AttentionState(NamedTuple):
    """The keys and values of every token read. A row's token of position s lies in slot s.

    The buffers are shared by the states of one text. ``filled`` counts the tokens in them, so a state knows
    whether a later one has written behind it: the newest appends in place, any other copies first. A decode
    step therefore moves one token, not the whole cache, and no state changes under its owner.
    """

    keys: Tensor
    """(B, H, C, d), a buffer of C >= max(count) slots, zero where nothing was written."""
    values: Tensor
    """Buffer of the same shape."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of tokens that this state has read, on the CPU."""
    filled: Tensor
    """int64 (B,), number of tokens in the buffers, on the CPU; the same object in all states that share
    them."""

    growing = {"keys": 2, "values": 2}  # noqa: RUF012 - a class attribute of a NamedTuple takes no annotation


class AttentionMixer(RotaryAttention):
    """Queries, keys and values; rotary positions; softmax over the past; output projection.

    Exactly causal. Cost O(T^2 D) for a text, and for one more token time and memory that grow with the text.
    """

    causal = True
    grows = True
    Config = AttentionConfig

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> AttentionState:
        """The state before the first token: no slots yet, on a device (None: that of the weights)."""
        weight = self.project_out.weight
        shape = (batch_size, self.num_heads, 0, self.head_dim)
        empty = torch.zeros(shape, dtype=weight.dtype, device=device or device_of(weight))
        count_B = torch.zeros(batch_size, dtype=torch.int64, device="cpu")
        return AttentionState(empty, empty, count_B, count_B.clone())

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: AttentionState | None = None
    ) -> Tensor | tuple[Tensor, AttentionState]:
        """Mix T tokens causally; with a state, tokens that follow what it has read.

        Args:
            x: tokens (B, T, D), T >= 1.
            attention_mask: boolean (B, T); a False token is not read, wherever it stands, and takes up no
                position.
            state: from ``init_state`` or an earlier call, which stays valid; None starts a text.

        Returns:
            Mixed tokens of the shape and dtype that came; with a state the pair of these and the new state.

        Raises:
            ValueError: on an empty sequence, or shapes that do not belong together.
        """
        check_input(x, self.d_model, attention_mask)
        if state is not None:
            return self._read(x, attention_mask, state)
        if attention_mask is not None:
            return self._read(x, attention_mask, self.init_state(x.shape[0], x.device))[0]
        q, k, v = self._project(x)
        return self.project_out(attention.causal_attention(q, k, v).flatten(2))

    def _read(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: AttentionState
    ) -> tuple[Tensor, AttentionState]:
        if mask_BT is None and torch.compiler.is_exporting():
            return self._read_for_export(x_BTD, state)
        start_B1 = state.count.to(x_BTD.device)[:, None]
        if mask_BT is None:
            position_BT = start_B1 + torch.arange(x_BTD.shape[1], device=x_BTD.device)
        else:
            position_BT = (start_B1 + mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        q, k, v = self._project(x_BTD, position_BT)
        aligned = mask_BT is None and bool((state.count == state.count[:1]).all())
        state = _append(state, k, v, position_BT, mask_BT, aligned)
        seen = max(int(state.count.max()), 1)
        keys, values = (cache[:, :, :seen].transpose(1, 2) for cache in (state.keys, state.values))
        mixed_BTHd = attention.causal_attention(q, keys, values, None if aligned else position_BT)
        return self.project_out(mixed_BTHd.flatten(2)), state

    def _read_for_export(self, x_BTD: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """The same without a look at any count: an exported program knows shapes only.

        Every call returns buffers that are T slots larger, even where no row needs them.
        """
        position_BT = state.count[:, None] + torch.arange(x_BTD.shape[1], device=x_BTD.device)
        q, k, v = self._project(x_BTD, position_BT)
        keys = attention.append(state.keys, k, state.count)
        values = attention.append(state.values, v, state.count)
        mixed_BTHd = attention.causal_attention(q, keys.transpose(1, 2), values.transpose(1, 2), position_BT)
        total_B = state.count + x_BTD.shape[1]
        state = AttentionState(keys, values, total_B, total_B.clone())
        return self.project_out(mixed_BTHd.flatten(2)), state


def _append(
    state: AttentionState,
    k_BTHd: Tensor,
    v_BTHd: Tensor,
    position_BT: Tensor,
    mask_BT: Tensor | None,
    aligned: bool,
) -> AttentionState:
    """The state after T more tokens: written in place where this state may, else into a copy."""
    keys = state.keys
    values = state.values
    filled = state.filled
    count_B = state.count.cpu()
    added_B = torch.tensor(k_BTHd.shape[1]) if mask_BT is None else mask_BT.sum(dim=1).cpu()
    before = int(count_B.max())
    total_B = count_B + added_B
    if not _may_write(state, k_BTHd) or int(total_B.max()) > keys.shape[2]:
        room = 0 if k_BTHd.requires_grad else 2 * before
        slots = max(int(total_B.max()), room, 1)
        keys, values = (_grown(cache, k_BTHd, before, slots) for cache in (keys, values))
        filled = torch.zeros_like(count_B)
    for cache, new_BTHd in ((keys.transpose(1, 2), k_BTHd), (values.transpose(1, 2), v_BTHd)):
        if aligned:
            cache[:, before : before + new_BTHd.shape[1]] = new_BTHd
        else:
            read_BT = torch.ones_like(position_BT, dtype=torch.bool) if mask_BT is None else mask_BT
            cache[read_BT.nonzero()[:, 0], position_BT[read_BT]] = new_BTHd[read_BT].to(cache.dtype)
    filled.copy_(total_B)
    return AttentionState(keys, values, total_B, filled)


def _may_write(state: AttentionState, new: Tensor) -> bool:
    """Whether tokens may be written into the buffers of this state."""
    # A write into a buffer that autograd has recorded would spoil the backward pass of an earlier call, so
    # a recorded call gets buffers of its own, without room behind them.
    if new.requires_grad:
        return False
    # Tensors made in inference mode can't be written outside of it.
    if state.keys.is_inference() and not torch.is_inference_mode_enabled():
        return False
    # A hook that moved the state to another device has cut the tie to those that shared the buffers.
    if state.filled.device.type != "cpu":
        return False
    return torch.equal(state.filled, state.count)


def _grown(cache_BHCd: Tensor, new_BTHd: Tensor, before: int, slots: int) -> Tensor:
    grown = new_BTHd.new_zeros((*cache_BHCd.shape[:2], slots, cache_BHCd.shape[3]))
    grown[:, :, :before] = cache_BHCd[:, :, :before]
    return grown
