"""The parts of a layer with addresses (docs/maths.md, section 3), beside those of ``fftnet.model.components``.

A *write key* says under which address a token is written into the spectrum of its prefix, a *read filter*
where a later token looks. A *content head* finds by address alone, whatever the age; a *spectral head*
weighs near and far, fast and slow as well, which is what a base of 1 in all of its bins stands for.
"""

import math

import torch
from torch import Tensor, nn


def base_address(num_heads: int, num_bins: int, content_heads: int, like: Tensor) -> Tensor:
    """1 in the bins of spectral heads and 0 in those of content heads, real and imaginary plane (H, 2, F)."""
    base = torch.zeros(num_heads, 2, num_bins, dtype=like.dtype, device=like.device)
    base[content_heads:, 0] = 1
    return base


class WriteKey(nn.Module):
    """What every token writes with, before its own part is added: complex, one number a head and bin.

    Args:
        num_heads: H.
        num_bins: F.
        content_heads: how many of the heads are content heads.
    """

    def __init__(self, num_heads: int, num_bins: int, content_heads: int) -> None:
        super().__init__()
        self.content_heads = content_heads
        self.base_key = nn.Parameter(torch.empty(num_heads, 2, num_bins))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at 1 in spectral heads, at 0 in content heads."""
        heads, _, bins = self.base_key.shape
        self.base_key.copy_(base_address(heads, bins, self.content_heads, self.base_key))

    def forward(self) -> Tensor:
        """Real and imaginary plane (H, 2, F)."""
        return self.base_key


class ReadFilter(nn.Module):
    """The adaptive filter, complex: a base filter, and the modulation that an MLP makes of the context.

    Args:
        context_dim: width of the context.
        hidden_dim: width of the MLP's hidden layer.
        num_heads: H.
        num_bins: F.
        content_heads: how many of the heads are content heads.
    """

    def __init__(
        self, context_dim: int, hidden_dim: int, num_heads: int, num_bins: int, content_heads: int
    ) -> None:
        super().__init__()
        self.content_heads = content_heads
        self.base_filter = nn.Parameter(torch.empty(num_heads, 2, num_bins))
        self.modulation = nn.Sequential(
            nn.Linear(context_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, 2 * num_heads * num_bins)
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start the base filter at 1 in spectral heads, at 0 in content heads; the MLP resets itself."""
        heads, _, bins = self.base_filter.shape
        self.base_filter.copy_(base_address(heads, bins, self.content_heads, self.base_filter))

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The base filter (H, 2, F) and, for a context (..., context_dim), the modulation (..., H, 2, F).

        ``fftnet.ops.addresses`` takes the modulation's tanh and adds the two up.
        """
        shape = (*context.shape[:-1], *self.base_filter.shape)
        return self.base_filter, self.modulation(context).view(shape)


class Clock(nn.Linear):
    """The time that passes at each token, for every head: ``softplus(W x + b)``, at the start about 1.

    Args:
        d_model: width D of a token.
        num_heads: H.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at one token, whatever the token."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, math.log(math.e - 1))

    def forward(self, input: Tensor) -> Tensor:
        """(..., D) to (..., H), above 0."""
        return nn.functional.softplus(super().forward(input))
