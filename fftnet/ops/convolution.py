"""The state of a causal convolution: the last P tokens that it has read."""

from torch import Tensor, arange, cat


def new_state(x: Tensor, conv_state: Tensor) -> Tensor:
    """Return the last P tokens of the old state (B, P, C) followed by the tokens x (B, T, C); a copy.

    Its shape and dtype are those of ``conv_state``.
    """
    tokens = x.shape[1]
    if not isinstance(tokens, int):
        # torch.export can't tell if an open number of tokens is below P.
        return cat([conv_state, x.to(conv_state.dtype)], dim=1)[:, tokens:]
    kept = x[:, max(tokens - conv_state.shape[1], 0) :]
    return cat([conv_state[:, tokens:], kept.to(conv_state.dtype)], dim=1)


def state_after(x: Tensor, conv_state: Tensor, count: Tensor) -> Tensor:
    """Return the state after the first ``count`` tokens of each row.

    Args:
        x: tokens (B, T, C).
        conv_state: the P tokens before them, (B, P, C).
        count: int64 (B,), at most T.

    Returns:
        The last P tokens, (B, P, C), in the dtype of ``conv_state``.
    """
    read_BTC = cat([conv_state, x.to(conv_state.dtype)], dim=1)
    place_BP = count[:, None] + arange(conv_state.shape[1], device=x.device)
    return read_BTC.gather(1, place_BP[..., None].expand_as(conv_state))
