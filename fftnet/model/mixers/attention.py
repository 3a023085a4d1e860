"""Softmax attention with rotary positions: causal and bidirectional baselines, layers of hybrid models."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.fields import documented
from fftnet.model.checks import check_input, head_dim
from fftnet.model.mixers.base import Mixer, device_of
from fftnet.ops import attention


@documented
@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Configuration of both attention mixers: no fields."""


class AttentionState(NamedTuple):
    """Keys and values of all tokens read. A row's token at position s is stored in slot s.

    States of the same text share the buffers. ``filled`` is the number of tokens in the buffers, so a state
    can tell whether a later state has written behind it: the newest state appends in place, any other copies
    first. So a decode step moves one token instead of the whole cache, and no state ever changes.
    """

    keys: Tensor
    """Buffer (B, H, C, d) of C >= max(count) slots, zero in unused slots."""
    values: Tensor
    """Buffer of the same shape."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of tokens read, on the CPU."""
    filled: Tensor
    """int64 (B,), number of tokens in the buffers, on the CPU; one object for all states that share them."""

    growing = {"keys": 2, "values": 2}  # noqa: RUF012 - a class attribute of a NamedTuple takes no annotation


class AttentionView(NamedTuple):
    """Intermediate results of an attention mixer."""

    values: Tensor
    """Values (B, T, H, d)."""
    weights: Tensor
    """Attention weights (B, H, T, T), queries before keys; 0 for later keys in the causal mixer."""
    mixed: Tensor
    """Weighted sums of the values, (B, T, H, d)."""
    output: Tensor
    """Output of the mixer, (B, T, D): the projection of ``mixed``."""


class RotaryAttention(Mixer):
    """Base class: projections to queries, keys and values with rotary positions, and an output projection.

    The width of a head must be even: rotary positions rotate pairs of channels.
    """

    Config = AttentionConfig

    def __init__(self, d_model: int, num_heads: int = 2, config: object = None) -> None:
        super().__init__(d_model, num_heads)
        self.head_dim = head_dim(d_model, num_heads)
        if self.head_dim % 2:
            sizes = f"d_model={d_model} and num_heads={num_heads}"
            raise ValueError(f"attention needs an even head width, got {self.head_dim} from {sizes}")
        self.project_in = nn.Linear(d_model, 3 * d_model, bias=False)
        self.project_out = nn.Linear(d_model, d_model, bias=False)

    def inspect(self, x: Tensor) -> AttentionView:
        """Compute ``forward`` step by step, as ``SpectralMixer.inspect``, with all attention weights."""
        check_input(x, self.d_model, None)
        q, k, v = self._project(x)
        # forward uses a fused kernel, which never has the weights.
        weights_BHTT = attention.attention_weights(q, k, causal=self.causal)
        mixed_BTHd = torch.einsum("bhts,bshd->bthd", weights_BHTT, v)
        return AttentionView(v, weights_BHTT, mixed_BTHd, self.project_out(mixed_BTHd.flatten(2)))

    def _project(self, x_BTD: Tensor, position_BT: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, T, H, d) at these positions (None: 0, 1, ...)."""
        if x_BTD.shape[1] == 0:
            raise ValueError("attention needs at least one token, got a sequence of length 0")
        if position_BT is None:
            position_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        q, k, v = self.project_in(x_BTD).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        return attention.rotate(q, position_BT), attention.rotate(k, position_BT), v


class BidirectionalAttentionMixer(RotaryAttention):
    """Attention of every token over all tokens of its row.

    Time O(T^2 D), memory O(T D) with PyTorch's fused kernels.
    """

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mix tokens (B, T, D), as ``Mixer`` describes; padding gives 0."""
        check_input(x, self.d_model, attention_mask)
        position_BT = None
        if attention_mask is not None:
            # Only tokens take up positions. Padding is zeroed: a weight of 0 times NaN would be NaN.
            position_BT = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
            x = x.masked_fill(~attention_mask[..., None], 0.0)
        q, k, v = self._project(x, position_BT)
        return self.project_out(attention.full_attention(q, k, v, attention_mask).flatten(2))


class AttentionMixer(RotaryAttention):
    """Attention of every token over itself and the tokens before it: the causal baseline.

    Time O(T^2 D) for a text; time and memory of a decode step grow with the text.
    """

    causal = True
    grows = True

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> AttentionState:
        """Return the state before the first token, without slots, on a device (None: that of the weights)."""
        weight = self.project_out.weight
        shape = (batch_size, self.num_heads, 0, self.head_dim)
        empty = torch.zeros(shape, dtype=weight.dtype, device=device or device_of(weight))
        # Counts stay on the CPU: they decide about sizes of buffers, and a GPU would have to be waited for.
        count_B = torch.zeros(batch_size, dtype=torch.int64, device="cpu")
        return AttentionState(empty, empty, count_B, count_B.clone())

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: AttentionState | None = None
    ) -> Tensor | tuple[Tensor, AttentionState]:
        """Mix tokens (B, T, D), as ``Mixer`` describes; masked tokens take up no position."""
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
        # A row continues at its own position, however many tokens the other rows have read.
        start_B1 = state.count.to(x_BTD.device)[:, None]
        if mask_BT is None:
            position_BT = start_B1 + torch.arange(x_BTD.shape[1], device=x_BTD.device)
        else:
            position_BT = (start_B1 + mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        q, k, v = self._project(x_BTD, position_BT)
        # Rows of equal length are written as one slice, and attention needs no table of positions.
        aligned = mask_BT is None and bool((state.count == state.count[:1]).all())
        state = _append(state, k, v, position_BT, mask_BT, aligned)
        longest = max(int(state.count.max()), 1)
        keys, values = (cache[:, :, :longest].transpose(1, 2) for cache in (state.keys, state.values))
        mixed_BTHd = attention.causal_attention(q, keys, values, None if aligned else position_BT)
        return self.project_out(mixed_BTHd.flatten(2)), state

    def _read_for_export(self, x_BTD: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Read without looking at values of ``count``: an exported program knows only shapes.

        Each call returns buffers with T more slots, even if no row needs them.
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
    """Return the state after T more tokens, written in place if allowed, otherwise into larger copies."""
    keys, values, filled = state.keys, state.values, state.filled
    count_B = state.count.cpu()
    added_B = torch.tensor(k_BTHd.shape[1]) if mask_BT is None else mask_BT.sum(dim=1).cpu()
    before = int(count_B.max())
    total_B = count_B + added_B
    # A fork, or full buffers: this state gets its own buffers and leaves the old ones to the others.
    if not _may_write(state, k_BTHd) or int(total_B.max()) > keys.shape[2]:
        # Twice the slots of now, so that copies cost O(1) per token on average.
        reserved = 0 if k_BTHd.requires_grad else 2 * before
        slots = max(int(total_B.max()), reserved, 1)
        keys, values = (_grown(cache, k_BTHd, before, slots) for cache in (keys, values))
        filled = torch.zeros_like(count_B)
    for cache, new_BTHd in ((keys.transpose(1, 2), k_BTHd), (values.transpose(1, 2), v_BTHd)):
        if aligned:
            cache[:, before : before + new_BTHd.shape[1]] = new_BTHd
        else:
            # Rows of different lengths: every token goes to the slot of its position, padding nowhere.
            read_BT = torch.ones_like(position_BT, dtype=torch.bool) if mask_BT is None else mask_BT
            cache[read_BT.nonzero()[:, 0], position_BT[read_BT]] = new_BTHd[read_BT].to(cache.dtype)
    # In place: all states that share the buffers see that they have been written.
    filled.copy_(total_B)
    return AttentionState(keys, values, total_B, filled)


def _may_write(state: AttentionState, new: Tensor) -> bool:
    """Return True if new tokens may be written into the buffers of this state."""
    # Autograd may have recorded the buffers in an earlier call, whose backward pass an in-place write would
    # break. So a recorded call always copies, and reserves no slots.
    if new.requires_grad:
        return False
    # Tensors created in inference mode can't be written outside of it.
    if state.keys.is_inference() and not torch.is_inference_mode_enabled():
        return False
    # A hook that moved the state to another device has copied `filled`, so sharing can't be seen any more.
    if state.filled.device.type != "cpu":
        return False
    return torch.equal(state.filled, state.count)


def _grown(cache_BHCd: Tensor, new_BTHd: Tensor, before: int, slots: int) -> Tensor:
    grown = new_BTHd.new_zeros((*cache_BHCd.shape[:2], slots, cache_BHCd.shape[3]))
    grown[:, :, :before] = cache_BHCd[:, :, :before]
    return grown
