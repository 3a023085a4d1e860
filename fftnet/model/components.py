"""The parts of an FFTNet layer (arXiv 2502.18394v2, section 3), each a module of its own."""

import torch
from torch import Tensor, nn

from fftnet.ops import spectral


class FourierTransform(nn.Module):
    """Orthonormal half spectrum over the tokens: (B, T, D) real to (B, H, T // 2 + 1, D // H) complex."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform tokens of any floating dtype; raises ValueError on an empty sequence."""
        return spectral.fourier_transform(x_BTD, self.num_heads)


class InverseFourierTransform(nn.Module):
    """Back to tokens: (B, H, F, d) complex to (B, T, H * d) real."""

    def forward(self, spectrum_BHFd: Tensor, num_tokens: int) -> Tensor:
        """Invert to ``num_tokens`` tokens, T with F = T // 2 + 1."""
        return spectral.inverse_fourier_transform(spectrum_BHFd, num_tokens)


class AdaptiveSpectralFilter(nn.Module):
    """``W = W_base + tanh(MLP(context))``: one real gain per head and bin.

    Args:
        context_dim: width of the context vector.
        hidden_dim: width of the MLP's hidden layer.
        num_heads: H.
        num_bins: K, the frequencies at which the filter is held.
    """

    def __init__(self, context_dim: int, hidden_dim: int, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.base_filter_HK = nn.Parameter(torch.ones(num_heads, num_bins))
        self.modulation = nn.Sequential(
            nn.Linear(context_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_heads * num_bins)
        )

    def forward(self, context: Tensor) -> Tensor:
        """Filter of shape (..., H, K) for a context of shape (..., context_dim)."""
        shape = (*context.shape[:-1], *self.base_filter_HK.shape)
        return self.base_filter_HK + torch.tanh(self.modulation(context)).view(shape)


class ModReLU(nn.Module):
    """``relu(|z| + b) z / max(|z|, floor)`` with one learned bias per head and bin; the phase is kept.

    Args:
        num_heads: H.
        num_bins: K, the frequencies at which the bias is held.
        initial_bias: b at the start; the paper takes -0.1, and 0 is exactly linear.
        floor: magnitude below which the division stops normalising.
    """

    def __init__(
        self,
        num_heads: int,
        num_bins: int,
        initial_bias: float = -0.1,
        floor: float = spectral.PAPER_FLOOR,
    ) -> None:
        super().__init__()
        self.bias_HK = nn.Parameter(torch.full((num_heads, num_bins), initial_bias))
        self.floor = floor

    def forward(self, z_BHFd: Tensor) -> Tensor:
        """Complex (B, H, F, d) to the same shape; F may differ from K."""
        bias_HF = spectral.interpolate_anchors(self.bias_HK, z_BHFd.shape[-2])
        return spectral.modrelu(z_BHFd, bias_HF[..., None], self.floor)
