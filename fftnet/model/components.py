"""Components of an FFTNet layer (arXiv 2502.18394v2, section 3; docs/maths.md), one module each.

A component owns parameters: a mixer reads them by calling it, so that hooks of offloading, sharding and
adapters run. And it computes its step of the layer: ``inspect`` of a mixer calls one after the other, while
``forward`` does the same in a fused operator of ``fftnet.ops`` that stores no spectrum.
"""

import math

import torch
from torch import Tensor, nn

from fftnet.ops import fourier, numerics
from fftnet.ops.numerics import PAPER_EPS
from fftnet.ops.prefix_context import prefix_context
from fftnet.ops.rms_norm import rms_norm

EMBEDDING_STD = 0.02
"""Standard deviation of a new embedding."""
CLOSED = -4.0
"""Gate of a new rotation before its sigmoid: a fiftieth."""


class RMSNorm(nn.RMSNorm):
    """RMSNorm of tokens (B, T, D) by ``fftnet.ops.rms_norm``, or of one token (B, D) by PyTorch."""

    def __init__(self, d_model: int) -> None:
        # PyTorch's default epsilon depends on the dtype, so float64 would compute another function.
        super().__init__(d_model, numerics.NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return normed tokens of the same shape and dtype."""
        # At a decode step the checks of an operator take longer than PyTorch's small kernel.
        return rms_norm(x, self.weight) if x.ndim == 3 else super().forward(x)


class FourierTransform(nn.Module):
    """Orthonormal Fourier transform over the tokens, half spectrum (section 1, step 1)."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Map real (B, T, D) to complex (B, H, T // 2 + 1, D // H); ValueError on an empty sequence."""
        return fourier.fourier_transform(x, self.num_heads)


class InverseFourierTransform(nn.Module):
    """Inverse of ``FourierTransform`` (section 1, step 7)."""

    def forward(self, spectrum: Tensor, num_tokens: int) -> Tensor:
        """Map complex (B, H, F, d) to real (B, T, H * d); ``num_tokens`` is T, with F = T // 2 + 1."""
        return fourier.inverse_fourier_transform(spectrum, num_tokens)


def modulation_mlp(context_dim: int, hidden_dim: int, outputs: int) -> nn.Sequential:
    """Return the MLP that maps the context to the modulation of the base filter (section 1, step 3)."""
    return nn.Sequential(nn.Linear(context_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, outputs))


class AdaptiveSpectralFilter(nn.Module):
    """``W = W_base + tanh(MLP(context))``: one real gain per head and bin (section 1, steps 3 and 4)."""

    def __init__(self, context_dim: int, hidden_dim: int, num_heads: int, num_bins: int) -> None:
        super().__init__()
        self.base_filter = nn.Parameter(torch.empty(num_heads, num_bins))
        self.modulation = modulation_mlp(context_dim, hidden_dim, num_heads * num_bins)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the base filter to 1 (all-pass); the MLP's layers reset themselves."""
        nn.init.ones_(self.base_filter)

    def forward(self, context: Tensor) -> Tensor:
        """Return the filter (..., H, K) of a context (..., context_dim)."""
        shape = (*context.shape[:-1], *self.base_filter.shape)
        # W = W_base + tanh(MLP(c)): the tanh keeps the modulation within 1 of the base.
        return self.base_filter + torch.tanh(self.modulation(context)).view(shape)


class ModReLU(nn.Module):
    """``relu(|z| + b) z / max(|z|, eps)`` with a learned bias b per head and bin (section 1, step 6).

    The initial b is -0.1 in the paper; with 0, magnitudes above ``eps`` stay unchanged.
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
        """Initialize every bias to ``initial_bias``."""
        nn.init.constant_(self.bias, self.initial_bias)

    def forward(self, spectrum: Tensor | None = None) -> Tensor:
        """Apply to a complex spectrum (..., H, F, d) of any F; without one return the bias (H, K)."""
        if spectrum is None:
            return self.bias
        # Biases at K anchors become biases at the F bins of the spectrum; nothing changes if K = F.
        bias_HF = numerics.interpolate_anchors(self.bias, spectrum.shape[-2])
        return numerics.modrelu(spectrum, bias_HF[..., None], self.eps)


class PrefixFourierTransform(nn.Module):
    """Rates ``-a + i w`` of the transform of every prefix (section 3, step 3).

    The decay ``a = exp(log_decay) > 0`` and the frequency w, in radians, are learned, both per unit of the
    clock. The initial time scales 1 / a are between ``shortest`` and ``longest``, in the same unit.
    """

    def __init__(self, num_heads: int, num_bins: int, shortest: float, longest: float) -> None:
        super().__init__()
        self.shortest = shortest
        self.longest = longest
        self.log_decay = nn.Parameter(torch.empty(num_heads, num_bins))
        self.frequency = nn.Parameter(torch.empty(num_heads, num_bins))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize log-spaced time scales 1 / a, long and short ones in a head, and random frequencies."""
        heads, bins = self.frequency.shape
        count = heads * bins
        # torch.arange works on the meta device; some libraries patch torch.linspace there to use the CPU.
        steps = torch.arange(count, device=self.log_decay.device, dtype=torch.float32) / max(count - 1, 1)
        log_scale = math.log(self.shortest) + steps * math.log(self.longest / self.shortest)
        log_decay_HF = -log_scale.view(bins, heads).T
        self.log_decay.copy_(log_decay_HF)
        # A bin rotates by at most one radian per time scale.
        self.frequency.copy_(log_decay_HF.exp() * torch.rand_like(log_decay_HF))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return decay a > 0 and frequency per unit of the clock, both (H, F)."""
        # a = exp(log_decay) is positive for every parameter, so |lambda| < 1 and the state stays bounded.
        return self.log_decay.exp(), self.frequency


def gain(decay: Tensor) -> Tensor:
    """Return the normalization ``g = sqrt(1 - |lambda|^2)`` of a prefix transform with decay a."""
    # |lambda|^2 = exp(-2 a); expm1 keeps the digits of small a, for which 1 - exp(-2 a) would cancel.
    return torch.sqrt(-torch.expm1(-2 * decay))


class PrefixContext(nn.Module):
    """Causal context ``c_t`` (section 3, step 4): running mean of the prefix and the token, width 2 D.

    From token ``horizon`` on, each token enters the mean with the weight 1 / horizon, so long texts look like
    training windows.
    """

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon

    def init_state(
        self, batch_size: int, width: int, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean (B, width) and int64 count (B,), both zero."""
        mean = torch.zeros(batch_size, width, dtype=dtype, device=device)
        return mean, torch.zeros(batch_size, dtype=torch.int64, device=device)

    def forward(
        self, x: Tensor, mean: Tensor, count: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the context (B, T, 2 D) of every prefix, the new mean and the new count, without padding."""
        return prefix_context(x, mean, count, attention_mask, horizon=self.horizon)


def _fill_with_ones(planes_H2F: Tensor) -> None:
    """Set complex numbers, stored as real and imaginary plane, to 1."""
    planes_H2F[:, 0] = 1
    planes_H2F[:, 1] = 0


class WriteKey(nn.Module):
    """Base of the write keys, complex (step 2): ``fftnet.ops.addresses`` adds each token's own part."""

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
    """Adaptive filter, complex (steps 4 and 5): a base filter, and an MLP from context to modulation."""

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
        """Return the base filter (H, 2, F) and the modulation (..., H, 2, F) of (..., context_dim)."""
        # Delta W = MLP(c_t), still without tanh: the operator fuses it with the sum.
        shape = (*context.shape[:-1], *self.base_filter.shape)
        return self.base_filter, self.modulation(context).view(shape)


class _Affine(nn.Module):
    """Affine map from a token to a few numbers, of which every token has the same at the start.

    Not an ``nn.Linear``: adapters and quantizers replace such layers, and what follows it would be lost.
    """

    decays = True
    """True: the optimizer applies weight decay to ``weight``, as to that of a linear layer."""

    def __init__(self, d_model: int, outputs: int, initial_bias: float) -> None:
        super().__init__()
        self.initial_bias = initial_bias
        self.weight = nn.Parameter(torch.empty(outputs, d_model))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the same number for every token."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.initial_bias)

    def affine(self, x: Tensor) -> Tensor:
        """Map tokens (..., D) to numbers (..., outputs)."""
        return nn.functional.linear(x, self.weight, self.bias)


class Clock(_Affine):
    """Time step of each token for every head (step 3): ``softplus(W x + b)``, at the start ``initial``."""

    def __init__(self, d_model: int, num_heads: int, initial: float = 1.0) -> None:
        # softplus(log(e^y - 1)) = y.
        super().__init__(d_model, num_heads, math.log(math.expm1(initial)))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., D) to time steps (..., H) > 0."""
        return nn.functional.softplus(self.affine(x))


class EraseStrength(_Affine):
    """Erase strength of each token for every head: ``largest sigmoid(W x + b)``, at the start half of it.

    1 replaces the value under a key. Up to 2 its sign changes, which tracks states such as a permutation.
    """

    def __init__(self, d_model: int, num_heads: int, largest: float) -> None:
        super().__init__(d_model, num_heads, 0.0)
        self.largest = largest

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., D) to strengths (..., H) between 0 and ``largest``."""
        return self.largest * torch.sigmoid(self.affine(x))


class Rotation(_Affine):
    """Rotation of every bin at each token and its gate, for ``fftnet.ops.rotary``; both for every head.

    The gate starts nearly closed: a memory that turns at every token would not keep what it holds.
    """

    def __init__(self, d_model: int, num_heads: int, num_bins: int) -> None:
        self.shape = (num_heads, num_bins + 1)
        # Products with normed tokens are about as large as the weights.
        self.scale = 1 / math.sqrt(d_model)
        super().__init__(d_model, num_heads * (num_bins + 1), 0.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize no rotation, and gates nearly closed."""
        super().reset_parameters()
        self.bias.view(self.shape)[:, -1] = CLOSED

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (..., D) to rotations (..., H, F) before tanh and gates (..., H) before sigmoid."""
        raw = self.affine(x).unflatten(-1, self.shape)
        return raw[..., :-1] * self.scale, raw[..., -1]


class TiedEmbedding(nn.Embedding):
    """Embedding and output head with one weight (V, D).

    Both directions run ``forward``, so the parameter exists once in the model and its files, and hooks see
    every use.
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size, d_model)

    def reset_parameters(self) -> None:
        """Initialize small vectors, so that the first logits are about equal."""
        nn.init.normal_(self.weight, std=EMBEDDING_STD)

    def forward(self, input: Tensor) -> Tensor:
        """Embed int64 ids of any shape, or project floating hidden states (..., D) to logits (..., V).

        On a CPU, an id outside the vocabulary is a ValueError.
        """
        if input.is_floating_point():
            return nn.functional.linear(input, self.weight)
        # A compiled graph can't look at ids; the check would break it.
        if torch.compiler.is_compiling():
            return super().forward(input)
        try:
            return super().forward(input)
        except IndexError as error:
            lowest = int(input.min())
            wrong = lowest if lowest < 0 else int(input.max())
            raise ValueError(f"id {wrong} lies outside the vocabulary of {self.num_embeddings}") from error
