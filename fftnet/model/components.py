"""The parts of an FFTNet layer (arXiv 2502.18394v2, section 3; docs/maths.md), each a module of its own.

They have two purposes. They own the parameters: a mixer reads them by calling the part, so that hooks of
offloading, sharding and adapters see it. And each computes its step of the layer by itself: ``inspect`` of a
mixer runs them one by one, where its ``forward`` does the same in one fused operator that never stores a
spectrum.

The filter and modReLU serve both forms. What differs is the transform pair (``FourierTransform`` of the
whole sequence, ``PrefixFourierTransform`` of every prefix) and how the context is pooled.
"""

import math

import torch
from torch import Tensor, nn

from fftnet.ops import fourier, numerics
from fftnet.ops.causal_mix.eager import prefix_transform
from fftnet.ops.numerics import PAPER_EPS
from fftnet.ops.prefix_context import prefix_context
from fftnet.ops.rms_norm import rms_norm

EMBEDDING_STD = 0.02
"""Standard deviation of a fresh embedding's numbers."""


class RMSNorm(nn.RMSNorm):
    """RMSNorm of tokens (B, T, D), by ``fftnet.ops.rms_norm``, or of one token (B, D).

    Its epsilon does not depend on the dtype, as PyTorch's own does, so that float64 is the truth of float32.

    Args:
        d_model: width D of a token.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, numerics.NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of the shape and dtype that came."""
        # At a decode step the way to an operator takes longer than PyTorch's small operations.
        return rms_norm(x, self.weight) if x.ndim == 3 else super().forward(x)


class FourierTransform(nn.Module):
    """Orthonormal half spectrum over the tokens: (B, T, D) real to (B, H, T // 2 + 1, D // H) complex.

    Run by ``SpectralMixer.inspect``; its ``forward`` transforms inside ``fftnet.ops.spectral_mix``.

    Args:
        num_heads: H, which must divide D.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens of any floating dtype; raises ValueError on an empty sequence."""
        return fourier.fourier_transform(x, self.num_heads)


class InverseFourierTransform(nn.Module):
    """Back to tokens: (B, H, F, d) complex to (B, T, H * d) real.

    Run by ``SpectralMixer.inspect``; its ``forward`` inverts inside ``fftnet.ops.spectral_mix``.
    """

    def forward(self, spectrum: Tensor, num_tokens: int) -> Tensor:
        """Invert to ``num_tokens`` tokens, T with F = T // 2 + 1."""
        return fourier.inverse_fourier_transform(spectrum, num_tokens)


class AdaptiveSpectralFilter(nn.Module):
    """``W = W_base + tanh(MLP(context))``: one real gain per head and bin. Both forms of every mixer run it.

    Args:
        context_dim: width of the context vector.
        hidden_dim: width of the MLP's hidden layer.
        num_heads: H.
        num_bins: K, the frequencies at which the filter is held.
    """

    def __init__(self, context_dim: int, hidden_dim: int, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.base_filter = nn.Parameter(torch.empty(num_heads, num_bins))
        self.modulation = nn.Sequential(
            nn.Linear(context_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_heads * num_bins)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start the base filter at 1, which passes everything; the MLP's layers reset themselves."""
        nn.init.ones_(self.base_filter)

    def forward(self, context: Tensor) -> Tensor:
        """Filter of shape (..., H, K) for a context of shape (..., context_dim)."""
        shape = (*context.shape[:-1], *self.base_filter.shape)
        return self.base_filter + torch.tanh(self.modulation(context)).view(shape)


class ModReLU(nn.Module):
    """``relu(|z| + b) z / max(|z|, eps)`` with one learned bias per head and bin; the phase is kept.

    A mixer calls it without a spectrum for its bias, which the fused operators apply; ``inspect`` calls it
    with one.

    Args:
        num_heads: H.
        num_bins: K, the frequencies at which the bias is held.
        initial_bias: b at the start; the paper takes -0.1; 0 changes nothing above eps.
        eps: magnitude below which the division stops normalising.
    """

    def __init__(
        self, num_heads: int, num_bins: int, initial_bias: float = -0.1, eps: float = PAPER_EPS
    ) -> None:
        super().__init__()
        self.initial_bias = initial_bias
        self.eps = eps
        self.bias = nn.Parameter(torch.empty(num_heads, num_bins))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start every bias at ``initial_bias``."""
        nn.init.constant_(self.bias, self.initial_bias)

    def forward(self, spectrum: Tensor | None = None) -> Tensor:
        """Complex (..., H, F, d) to the same shape, any F; without a spectrum the bias (H, K)."""
        if spectrum is None:
            return self.bias
        bias_HF = numerics.interpolate_anchors(self.bias, spectrum.shape[-2])
        return numerics.modrelu(spectrum, bias_HF[..., None], self.eps)


class PrefixFourierTransform(nn.Module):
    """Spectrum of every prefix: ``Z_hk(t) = g_hk sum_{j<=t} lambda_hk^(t-j) v_h(j)``.

    ``lambda = exp(-a + i w)`` with a learned decay ``a = exp(log_decay) > 0`` and a learned frequency w in
    radians per token; ``g = sqrt(1 - |lambda|^2)`` keeps the size of Z independent of the time scale.

    At the start the time scales 1 / a are log-spaced from ``shortest`` to ``longest`` tokens and dealt out so
    that every head has near and far ones; a bin turns by at most half a radian in one time scale.

    A mixer calls it without values for decay and frequency, with which ``fftnet.ops.causal_mix`` and
    ``fftnet.ops.keyed_mix`` run the transform without storing it; ``inspect`` of the causal mixer calls it
    with values.

    Args:
        num_heads: H.
        num_bins: F frequencies a head.
        shortest: time scale of the fastest bin at the start, in tokens.
        longest: time scale of the slowest bin at the start, in tokens.
    """

    def __init__(self, num_heads: int, num_bins: int, shortest: float = 2.0, longest: float = 4000.0) -> None:
        super().__init__()
        self.shortest = shortest
        self.longest = longest
        self.log_decay = nn.Parameter(torch.empty(num_heads, num_bins))
        self.frequency = nn.Parameter(torch.empty(num_heads, num_bins))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Deal out time scales and draw frequencies, on the device where the parameters lie."""
        heads, bins = self.frequency.shape
        count = heads * bins
        # On the parameters' device, even meta: not torch.linspace, which some patch there to use the CPU.
        steps = torch.arange(count, device=self.log_decay.device, dtype=torch.float32) / max(count - 1, 1)
        log_scale = math.log(self.shortest) + steps * math.log(self.longest / self.shortest)
        log_decay_HF = -log_scale.view(bins, heads).T
        self.log_decay.copy_(log_decay_HF)
        self.frequency.copy_(log_decay_HF.exp() * torch.rand_like(log_decay_HF))

    def init_state(self, batch_size: int, head_dim: int, device: torch.device | str | None = None) -> Tensor:
        """The spectrum before the first token: zeros of shape (B, F, 2, H, d), real and imaginary plane."""
        heads, bins = self.frequency.shape
        shape = (batch_size, bins, 2, heads, head_dim)
        return torch.zeros(shape, dtype=numerics.compute_dtype(self.frequency), device=device)

    def forward(self, values: Tensor | None = None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The spectrum of every prefix, or without values the decay a > 0 per token and the frequency (H, F).

        Args:
            values: (B, T, H, d), T >= 1.
            state: from ``init_state`` or an earlier call, the sums before multiplication by g; None
                starts a sequence.

        Returns:
            The spectrum, complex (B, T, H, F, d), and the state to continue from.
        """
        decay = self.log_decay.exp()
        if values is None:
            return decay, self.frequency
        if state is None:
            state = self.init_state(values.shape[0], values.shape[3], values.device)
        dtype = state.dtype
        sums, state = prefix_transform(values.to(dtype), decay.to(dtype), self.frequency.to(dtype), state)
        return sums * gain(decay)[..., None], state


def gain(decay: Tensor) -> Tensor:
    """The normalisation g of a prefix transform with the decay a, of the same shape."""
    return torch.sqrt(-torch.expm1(-2 * decay))


class PrefixInverse(nn.Module):
    """Reads the spectrum of a prefix at its last token: ``y_h(t) = Re sum_k C_hk A_hk(t)``, C learned.

    A mixer calls it without a spectrum for C, which ``fftnet.ops.causal_mix`` applies;
    ``CausalSpectralMixer.inspect`` calls it with one.

    Args:
        num_heads: H.
        num_bins: F.
    """

    def __init__(self, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.readout = nn.Parameter(torch.empty(num_heads, num_bins, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw C so that the read-out is about as large as a bin."""
        nn.init.normal_(self.readout, std=1 / math.sqrt(self.readout.shape[1]))

    def forward(self, spectrum: Tensor | None = None) -> Tensor:
        """Complex (B, T, H, F, d) to real (B, T, H, d); without a spectrum C as two planes (H, F, 2)."""
        if spectrum is None:
            return self.readout
        readout = self.readout.to(spectrum.real.dtype)
        readout_HF = torch.complex(readout[..., 0], readout[..., 1])
        return (spectrum * readout_HF[..., None]).real.sum(dim=3)


class PrefixContext(nn.Module):
    """Causal context ``c_t``: the running mean of the prefix beside the token itself, 2 D wide.

    Args:
        horizon: from that many tokens on the mean forgets, so that it stays what it was in training however
            long a text is. None keeps the mean of everything.
    """

    def __init__(self, horizon: int | None = None) -> None:
        super().__init__()
        self.horizon = horizon

    def init_state(
        self, batch_size: int, width: int, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """A mean of zero (B, D) over an int64 count of zero (B,)."""
        mean = torch.zeros(batch_size, width, dtype=dtype, device=device)
        return mean, torch.zeros(batch_size, dtype=torch.int64, device=device)

    def forward(
        self, x: Tensor, mean: Tensor, count: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Context (B, T, 2 D) of every prefix, then mean and count; False in the mask is left out."""
        return prefix_context(x, mean, count, attention_mask, horizon=self.horizon)


class TiedEmbedding(nn.Embedding):
    """Ids to vectors, and hidden states to logits, with one weight (V, D) for both.

    Both ways lead through ``forward``: the parameter is there once, in the model and in its files, and hooks
    see it used.

    Args:
        vocab_size: V.
        d_model: D.
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size, d_model)

    def reset_parameters(self) -> None:
        """Draw small vectors, so that the first logits are about equal."""
        nn.init.normal_(self.weight, std=EMBEDDING_STD)

    def forward(self, input: Tensor) -> Tensor:
        """Embed int64 ids of any shape, or project floating hidden states (..., D) to logits (..., V).

        Raises:
            ValueError: on a CPU, if an id lies outside the vocabulary.
        """
        if input.is_floating_point():
            return nn.functional.linear(input, self.weight)
        if torch.compiler.is_compiling():
            return super().forward(input)
        try:
            return super().forward(input)
        except IndexError as error:
            lowest = int(input.min())
            wrong = lowest if lowest < 0 else int(input.max())
            raise ValueError(f"id {wrong} lies outside the vocabulary of {self.num_embeddings}") from error
