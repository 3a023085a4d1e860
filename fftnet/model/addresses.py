"""The parts of a layer with addresses (docs/maths.md, section 3), beside ``fftnet.model.components``.

A *write key* says under which address a token is written into the spectrum of its prefix, a *read filter*
where a later token looks. Both start from a base of 1 in every bin, with which a token is written and read
whatever it is; so the layer begins as one that weighs near and far, and learns to tell tokens apart.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def _fill_with_ones(planes_H2F: Tensor) -> None:
    planes_H2F[:, 0] = 1
    planes_H2F[:, 1] = 0


class WriteKey(nn.Module):
    """What every token writes with, before its own part is added: complex, one number a head and bin.

    Args:
        num_heads: H.
        num_bins: F.
    """

    def __init__(self, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.base_key = nn.Parameter(torch.empty(num_heads, 2, num_bins))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at 1."""
        _fill_with_ones(self.base_key)

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
    """

    def __init__(self, context_dim: int, hidden_dim: int, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.base_filter = nn.Parameter(torch.empty(num_heads, 2, num_bins))
        self.modulation = nn.Sequential(
            nn.Linear(context_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, 2 * num_heads * num_bins)
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start the base filter at 1; the MLP's layers reset themselves."""
        _fill_with_ones(self.base_filter)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The base filter (H, 2, F) and, for a context (..., context_dim), the modulation (..., H, 2, F).

        ``fftnet.ops.addresses`` takes the modulation's tanh and adds the two up.
        """
        shape = (*context.shape[:-1], *self.base_filter.shape)
        return self.base_filter, self.modulation(context).view(shape)


class Clock(nn.Module):
    """The time that passes at each token, for every head: ``softplus(W x + b)``, at the start about 1.

    Not an ``nn.Linear``: adapters and quantisers put others in the place of those, and the softplus would be
    lost.

    Args:
        d_model: width D of a token.
        num_heads: H.
    """

    decays = True
    """Whether the optimizer lets ``weight`` decay, as that of a linear layer."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, d_model))
        self.bias = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at one token, whatever the token."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, math.log(math.e - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., H), above 0."""
        return functional.softplus(functional.linear(x, self.weight, self.bias))
