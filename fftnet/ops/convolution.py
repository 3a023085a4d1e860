"""Causal depth-wise convolution, and its state: the last P tokens that it has read."""

import torch
from torch import Tensor


def convolve(x: Tensor, conv_weight: Tensor, conv_state: Tensor) -> Tensor:
    """Return ``y(t) = sum_i weight[W-1-i] x(t-i)`` of tokens (B, T, C); all tensors have one dtype.

    ``conv_weight`` (C, W) has the newest token's tap last. ``conv_state`` holds the P = W - 1 tokens before
    the first, (B, P, C).
    """
    tokens = x.shape[1]
    padded = torch.cat([conv_state, x], dim=1)
    y = padded[:, :tokens] * conv_weight[:, 0]
    # A loop over the few taps: conv1d would need tokens and channels exchanged.
    for tap in range(1, conv_weight.shape[1]):
        y = torch.addcmul(y, padded[:, tap : tap + tokens], conv_weight[:, tap])
    return y


def new_state(x: Tensor, conv_state: Tensor) -> Tensor:
    """Return a copy of the last P tokens of the old state (B, P, C) followed by the tokens x (B, T, C)."""
    tokens = x.shape[1]
    if not isinstance(tokens, int):
        # torch.export can't tell if an open number of tokens is below P.
        return torch.cat([conv_state, x.to(conv_state.dtype)], dim=1)[:, tokens:]
    # Only the tokens that stay are copied, not the whole text.
    kept = x[:, max(tokens - conv_state.shape[1], 0) :]
    return torch.cat([conv_state[:, tokens:], kept.to(conv_state.dtype)], dim=1)


def state_after(x: Tensor, conv_state: Tensor, count: Tensor) -> Tensor:
    """Return the state (B, P, C) after the first ``count`` (B,) tokens of each row of x (B, T, C)."""
    read_BTC = torch.cat([conv_state, x.to(conv_state.dtype)], dim=1)
    place_BP = count[:, None] + torch.arange(conv_state.shape[1], device=x.device)
    return read_BTC.gather(1, place_BP[..., None].expand_as(conv_state))
