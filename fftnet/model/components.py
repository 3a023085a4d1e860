"""The parts of an FFTNet layer (arXiv 2502.18394v2, section 3; docs/maths.md), each a module of its own.

The filter and modReLU serve both forms. What differs is the transform pair (:class:`FourierTransform` of the
whole sequence, :class:`PrefixFourierTransform` of every prefix) and how the context is pooled.
"""

import math

import torch
from torch import Tensor, nn

from fftnet.ops import fourier, numerics
from fftnet.ops import prefix_context as context
from fftnet.ops.causal_mix import torch as prefix_fft

NORM_EPS = 1e-6
"""Of every RMSNorm. PyTorch's own depends on the dtype, so that float64 would not be the truth of float32."""


class FourierTransform(nn.Module):
    """Orthonormal half spectrum over the tokens: (B, T, D) real to (B, H, T // 2 + 1, D // H) complex."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform tokens of any floating dtype; raises ValueError on an empty sequence."""
        return fourier.fourier_transform(x_BTD, self.num_heads)


class InverseFourierTransform(nn.Module):
    """Back to tokens: (B, H, F, d) complex to (B, T, H * d) real."""

    def forward(self, spectrum_BHFd: Tensor, num_tokens: int) -> Tensor:
        """Invert to ``num_tokens`` tokens, T with F = T // 2 + 1."""
        return fourier.inverse_fourier_transform(spectrum_BHFd, num_tokens)


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
        initial_bias: b at the start; the paper takes -0.1; 0 changes nothing above the floor.
        floor: magnitude below which the division stops normalising.
    """

    def __init__(
        self,
        num_heads: int,
        num_bins: int,
        initial_bias: float = -0.1,
        floor: float = numerics.PAPER_EPS,
    ) -> None:
        super().__init__()
        self.bias_HK = nn.Parameter(torch.full((num_heads, num_bins), initial_bias))
        self.floor = floor

    def forward(self, z_BHFd: Tensor) -> Tensor:
        """Complex (B, H, F, d) to the same shape; F may differ from K."""
        bias_HF = numerics.interpolate_anchors(self.bias_HK, z_BHFd.shape[-2])
        return numerics.modrelu(z_BHFd, bias_HF[..., None], self.floor)


class PrefixFourierTransform(nn.Module):
    """Spectrum of every prefix: ``Z_hk(t) = g_hk sum_{j<=t} lambda_hk^(t-j) v_h(j)``.

    ``lambda = exp(-a + i w)`` with a learned decay ``a = exp(log_decay_HF) > 0`` and a learned frequency w in
    radians per token; ``g = sqrt(1 - |lambda|^2)`` keeps the size of Z independent of the time scale.

    At the start the time scales 1 / a are log-spaced from ``shortest`` to ``longest`` tokens and dealt out so
    that every head has near and far ones; a bin turns by at most half a radian in one time scale.

    Args:
        num_heads: H.
        num_bins: F frequencies a head.
        shortest: time scale of the fastest bin at the start, in tokens.
        longest: time scale of the slowest bin at the start, in tokens.
    """

    def __init__(self, num_heads: int, num_bins: int, shortest: float = 2.0, longest: float = 4000.0) -> None:
        super().__init__()
        steps = torch.linspace(0, 1, num_heads * num_bins).view(num_bins, num_heads).T
        log_decay_HF = -math.log(shortest) - steps * math.log(longest / shortest)
        self.log_decay_HF = nn.Parameter(log_decay_HF.contiguous())
        self.frequency_HF = nn.Parameter(self.log_decay_HF.detach().exp() * torch.rand(num_heads, num_bins))

    def decay(self) -> Tensor:
        """The decay a > 0 per token, (H, F)."""
        return self.log_decay_HF.exp()

    def gain(self) -> Tensor:
        """The normalisation g, (H, F)."""
        return torch.sqrt(-torch.expm1(-2 * self.decay()))

    def init_state(self, batch_size: int, head_dim: int) -> Tensor:
        """The spectrum before the first token: zeros of shape (B, F, 2, H, d), real and imaginary plane."""
        dtype = numerics.compute_dtype(self.frequency_HF)
        heads, bins = self.frequency_HF.shape
        shape = (batch_size, bins, 2, heads, head_dim)
        return torch.zeros(shape, dtype=dtype, device=self.frequency_HF.device)

    def forward(self, v_BTHd: Tensor, state_BF2Hd: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The spectrum of every prefix, complex (B, T, H, F, d), and the state to continue from.

        For looking at and testing: mixers use :mod:`fftnet.ops.causal_mix`, which never stores it.
        The state holds the sums before multiplication by g.
        """
        if state_BF2Hd is None:
            state_BF2Hd = self.init_state(v_BTHd.shape[0], v_BTHd.shape[3])
        values = v_BTHd.to(state_BF2Hd.dtype)
        sums, state = prefix_fft.prefix_transform(values, self.decay(), self.frequency_HF, state_BF2Hd)
        return sums * self.gain()[..., None], state


class PrefixInverse(nn.Module):
    """Reads the spectrum of a prefix at its last token: ``y_h(t) = Re sum_k C_hk A_hk(t)``, C learned.

    Args:
        num_heads: H.
        num_bins: F.
    """

    def __init__(self, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.mixing_HF2 = nn.Parameter(torch.randn(num_heads, num_bins, 2) / math.sqrt(num_bins))

    def forward(self, spectrum_BTHFd: Tensor) -> Tensor:
        """Complex (B, T, H, F, d) to real (B, T, H, d)."""
        mixing_HF = torch.complex(self.mixing_HF2[..., 0], self.mixing_HF2[..., 1])
        return (spectrum_BTHFd * mixing_HF[..., None]).real.sum(dim=3)


class PrefixContext(nn.Module):
    """Causal context ``c_t``: the running mean of the prefix beside the token itself, 2 D wide."""

    def init_state(self, batch_size: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A mean of zero (B, D) over a count of zero (B,), on the device of ``like``."""
        mean_BD = torch.zeros(batch_size, width, dtype=numerics.compute_dtype(like), device=like.device)
        return mean_BD, torch.zeros(batch_size, dtype=torch.int64, device=like.device)

    def forward(
        self, x_BTD: Tensor, state: tuple[Tensor, Tensor], mask_BT: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Context (B, T, 2 D) of every prefix and the state; False in ``mask_BT`` is left out of the mean."""
        context_BTC, mean_BD, count_B = context.prefix_context(x_BTD, *state, mask_BT)
        return context_BTC, (mean_BD, count_B)
