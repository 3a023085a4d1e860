"""The state of a causal convolution, the last P tokens it has read, as operators hand it on."""

from torch import Tensor, cat


def new_state(x: Tensor, conv_state: Tensor) -> Tensor:
    """The last P tokens, (B, P, C), of the old state (B, P, C) followed by the tokens x (B, T, C); a copy."""
    tokens = x.shape[1]
    oldest = max(tokens - conv_state.shape[1], 0)
    return cat([conv_state[:, tokens:], x[:, oldest:]], dim=1)


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
