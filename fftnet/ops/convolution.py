"""The state of a causal convolution, the last P tokens it has read, as operators hand it on."""

from torch import Tensor, arange, cat


def new_state(x: Tensor, conv_state: Tensor) -> Tensor:
    """The last P tokens, (B, P, C), of the old state (B, P, C) followed by the tokens x (B, T, C); a copy."""
    tokens = x.shape[1]
    oldest = max(tokens - conv_state.shape[1], 0)
    return cat([conv_state[:, tokens:], x[:, oldest:]], dim=1)


def state_after(x: Tensor, conv_state: Tensor, count: Tensor) -> Tensor:
    """The state after the first ``count`` tokens of each row.

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


def add_state_gradient(grad_state: Tensor, grad_x: Tensor, grad_past: Tensor) -> None:
    """Add the gradient of the new state to those of what it is copied from.

    Args:
        grad_state: gradient of the new state, (B, P, C).
        grad_x: gradient of the tokens, (B, T, C), whose last ones are the end of the new state.
        grad_past: gradient of the old state, (B, P, C), whose last ones begin it where T < P.
    """
    tokens = grad_x.shape[1]
    past = grad_past.shape[1]
    kept = max(past - tokens, 0)
    grad_past[:, tokens:] += grad_state[:, :kept]
    grad_x[:, max(tokens - past, 0) :] += grad_state[:, kept:]
