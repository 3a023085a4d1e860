"""Write keys, read filters and clock of FFTNet (causal) (docs/maths.md, section 3).

Write keys decide under which address a token enters the spectrum of the prefix; read filters decide which
address a later token reads. Both have a base of 1 in every bin, so that every token is written and read
independently of its content: an untrained layer weighs near and far tokens as in section 2.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fftnet.model.components import modulation_mlp


def _fill_with_ones(planes_H2F: Tensor) -> None:
    """Set complex numbers, stored as real and imaginary plane, to 1."""
    planes_H2F[:, 0] = 1
    planes_H2F[:, 1] = 0


class WriteKey(nn.Module):
    """Base of the write keys, complex (step 2): ``fftnet.ops.addresses`` adds each token's own part.

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
        """Initialize the base to 1."""
        _fill_with_ones(self.base_key)

    def forward(self) -> Tensor:
        """Return real and imaginary plane, (H, 2, F)."""
        return self.base_key


class ReadFilter(nn.Module):
    """Adaptive filter, complex (steps 4 and 5): a base filter, and an MLP from context to modulation.

    Args:
        context_dim: width of the context.
        hidden_dim: width of the MLP's hidden layer.
        num_heads: H.
        num_bins: F.
    """

    def __init__(self, context_dim: int, hidden_dim: int, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.base_filter = nn.Parameter(torch.empty(num_heads, 2, num_bins))
        self.modulation = modulation_mlp(context_dim, hidden_dim, 2 * num_heads * num_bins)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the base filter to 1; the MLP's layers reset themselves."""
        _fill_with_ones(self.base_filter)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the base filter (H, 2, F) and the modulation (..., H, 2, F) of a context (..., context_dim).

        ``fftnet.ops.addresses`` adds the tanh of the modulation to the base filter.
        """
        # Delta W = MLP(c_t), still without tanh: the operator fuses it with the sum.
        shape = (*context.shape[:-1], *self.base_filter.shape)
        return self.base_filter, self.modulation(context).view(shape)


class Clock(nn.Module):
    """Time step of each token for every head (step 3): ``softplus(W x + b)``, initially 1.

    Not an ``nn.Linear``: adapters and quantizers replace such layers, and the softplus would be lost.

    Args:
        d_model: width D of a token.
        num_heads: H.
    """

    decays = True
    """True: the optimizer applies weight decay to ``weight``, as to that of a linear layer."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, d_model))
        self.bias = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the time step of every token to 1."""
        nn.init.zeros_(self.weight)
        # softplus(log(e - 1)) = 1.
        nn.init.constant_(self.bias, math.log(math.e - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., D) to time steps (..., H) > 0."""
        return functional.softplus(functional.linear(x, self.weight, self.bias))
