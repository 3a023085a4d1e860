"""FFTNet (bidirectional): the layer of the paper, arXiv 2502.18394v2 (docs/maths.md, section 1)."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fftnet.fields import MAX_SIZE, MAX_VOCAB_SIZE, check_fields, check_range, documented
from fftnet.model.checks import check_input, head_dim
from fftnet.model.components import AdaptiveSpectralFilter, FourierTransform, InverseFourierTransform, ModReLU
from fftnet.model.mixers.base import ByLengthMixer
from fftnet.ops.numerics import interpolate_anchors
from fftnet.ops.spectral_mix import spectral_mix


@documented
@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """Configuration of the mixer of FFTNet (bidirectional)."""

    num_anchors: int = 129
    """Number of frequencies with a learned filter; others are interpolated. The published layer has 129 at
    256 tokens."""
    mlp_hidden_dim: int | None = None
    """Hidden width of the MLP that maps the context to the modulation (None: d_model)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "num_anchors")
        check_range(self, 1, MAX_VOCAB_SIZE, "mlp_hidden_dim")


class SpectralView(NamedTuple):
    """Intermediate results of the mixer, with F = T // 2 + 1 bins."""

    context: Tensor
    """(B, D), mean of the tokens."""
    filter: Tensor
    """Real (B, H, F), adaptive filter at the bins of the sequence."""
    spectrum: Tensor
    """Complex (B, H, F, d), Fourier transform of the tokens."""
    filtered: Tensor
    """Complex (B, H, F, d), filter times spectrum."""
    activated: Tensor
    """Complex (B, H, F, d), modReLU of the filtered spectrum."""
    output: Tensor
    """(B, T, D), output of the mixer: the inverse transform."""


class SpectralMixer(ByLengthMixer):
    """Fourier transform, context, modulation, filter, modReLU and inverse transform of the whole sequence.

    The filter has K anchor frequencies (``num_anchors``) and is interpolated to the T // 2 + 1 bins of the
    sequence; with K = T // 2 + 1 it is that of the published layer.
    """

    Config = SpectralConfig

    def __init__(self, d_model: int, num_heads: int = 2, config: SpectralConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        config = config or SpectralConfig()
        head_dim(d_model, num_heads)
        hidden_dim = config.mlp_hidden_dim or d_model
        self.transform = FourierTransform(num_heads)
        self.filter = AdaptiveSpectralFilter(d_model, hidden_dim, num_heads, config.num_anchors)
        self.activation = ModReLU(num_heads, config.num_anchors)
        self.inverse = InverseFourierTransform()

    def inspect(self, x: Tensor) -> SpectralView:
        """Compute ``forward`` step by step for tokens (B, T, D) without padding, and return all results."""
        check_input(x, self.d_model, None)
        # Steps 1 to 7 of docs/maths.md, section 1.
        spectrum = self.transform(x)
        context, filter_ = self._filter(x)
        filtered = filter_[..., None] * spectrum
        activated = self.activation(filtered)
        output = self.inverse(activated, x.shape[1]).to(x.dtype)
        return SpectralView(context, filter_, spectrum, filtered, activated, output)

    def _filter(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        context_BD = x_BTD.mean(dim=1)
        return context_BD, interpolate_anchors(self.filter(context_BD), x_BTD.shape[1] // 2 + 1)

    def _mix(self, x_BTD: Tensor) -> Tensor:
        # Context, filter and bias are small; transform, product, modReLU and inverse are one operator.
        _, filter_BHF = self._filter(x_BTD)
        bias_HF = interpolate_anchors(self.activation(), filter_BHF.shape[2])
        return spectral_mix(x_BTD, filter_BHF, bias_HF, eps=self.activation.eps)
