"""Parts that all baselines share: the short causal convolution, and the check of their inputs."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fftnet.model.checks import check_input
from fftnet.ops.convolution import convolve, new_state
from fftnet.ops.numerics import compute_dtype

WIDTH = 4
"""Tokens that the convolution sees, the newest included."""


def causal_conv(x: Tensor, weight: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Convolve tokens (B, T, C) with filters (C, W) behind the W - 1 tokens ``past``; return the last too."""
    dtype = compute_dtype(x)
    y = convolve(x.to(dtype), weight.to(dtype), past.to(dtype))
    return y.to(torch.promote_types(x.dtype, weight.dtype)), new_state(x, past)


class ShortConv(nn.Module):
    """Depth-wise causal convolution of width 4, near the identity at the start, as in FFTNet's causal mixers.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, WIDTH))
        bound = 1 / math.sqrt(WIDTH)
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            # The newest token passes, as without a convolution.
            self.weight[:, -1] += 1.0

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """Return the tokens before the first, (B, WIDTH - 1, C)."""
        return self.weight.new_zeros(batch_size, WIDTH - 1, self.weight.shape[0], device=device)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve tokens (B, T, C); also return the last ones for the call that continues."""
        return causal_conv(x, self.weight, self.init_state(len(x), x.device) if past is None else past)


@torch.no_grad()
def start_matched(query_weight: Tensor, key_weight: Tensor, taps: Tensor) -> None:
    """Set the start values of FFTNet's causal layer: reads match writes, and keys see the previous token.

    Args:
        query_weight: weight of the projection to queries. It becomes that of the keys.
        key_weight: weight of the projection to keys.
        taps: the keys' rows of the convolution's weight. They pass this token and the previous one alike.
    """
    query_weight.copy_(key_weight)
    taps.uniform_(-0.1, 0.1)
    taps[:, -2:] += 0.7


def check_rows(x: Tensor, d_model: int, attention_mask: Tensor | None, state: Any = None) -> None:
    """Refuse inputs that the baselines can't read.

    No position sees a later one, so padding at the end of a row needs no treatment: the other tokens do not
    depend on it. A state would depend on it.

    Raises:
        ValueError: on another shape, an empty sequence, padding before a token, or padding with a state.
    """
    check_input(x, d_model, None)
    if x.shape[1] == 0:
        raise ValueError("a baseline needs at least one token, got a sequence of length 0")
    if attention_mask is None:
        return
    if state is not None or bool((attention_mask[:, 1:] & ~attention_mask[:, :-1]).any()):
        raise ValueError(
            "baselines read padding at the end of a row only, and without a state: pad on the right"
        )
