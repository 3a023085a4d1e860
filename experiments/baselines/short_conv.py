"""The short causal convolution that stands before every baseline, and what all of them refuse."""

import math

import torch
from torch import Tensor, nn

from fftnet.model.checks import check_input
from fftnet.ops.gated_conv import causal_conv

WIDTH = 4
"""Tokens that it sees, the newest included."""


class ShortConv(nn.Module):
    """Depth-wise causal convolution of width 4, near the identity at the start, as in fftnet's causal mixer.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, WIDTH))
        bound = 1 / math.sqrt(WIDTH)
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            self.weight[:, -1] += 1.0

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """The tokens before the first, (B, WIDTH - 1, C)."""
        return self.weight.new_zeros(batch_size, WIDTH - 1, self.weight.shape[0], device=device)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve tokens (B, T, C); returns as many, and the last ones for the call that continues."""
        return causal_conv(x, self.weight, self.init_state(len(x), x.device) if past is None else past)


@torch.no_grad()
def start_matched(reading: Tensor, writing: Tensor, taps: Tensor) -> None:
    """The start of fftnet's mixer with addresses: reads match writes, which see the token before as well.

    Args:
        reading: weight of the projection that makes queries; it becomes that of the keys.
        writing: weight of the projection that makes keys.
        taps: the keys' rows of the convolution's weight; they pass this token and the one before alike.
    """
    reading.copy_(writing)
    taps.uniform_(-0.1, 0.1)
    taps[:, -2:] += 0.7


def check_whole_rows(x: Tensor, d_model: int, attention_mask: Tensor | None) -> None:
    """Refuse what the baselines can't read.

    Raises:
        ValueError: on padding, another shape, or an empty sequence.
    """
    check_input(x, d_model, None)
    if attention_mask is not None:
        raise ValueError("baselines read whole rows: pad behind the last token and leave the targets out")
    if x.shape[1] == 0:
        raise ValueError("a baseline needs at least one token, got a sequence of length 0")
