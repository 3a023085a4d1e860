"""The mixer of the paper (arXiv 2502.18394v2, section 3): bidirectional, any length."""

from torch import Tensor, nn

from fftnet.model.components import AdaptiveSpectralFilter, ModReLU
from fftnet.model.config import MixerConfig
from fftnet.ops import numerics, padding
from fftnet.ops.spectral_mix import spectral_mix


class SpectralMixer(nn.Module):
    """Transform, context, modulation, filter, modReLU, inverse, over the whole sequence.

    The filter lives at K anchor frequencies (``num_bins``, default ``max_seq_length // 2 + 1``) and is
    interpolated to the T // 2 + 1 bins of the sequence at hand; K = T // 2 + 1 is the published layer.
    """

    causal = False

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        heads, anchors = config.num_heads, config.num_bins or config.max_seq_length // 2 + 1
        self.filter = AdaptiveSpectralFilter(config.d_model, config.hidden_dim, heads, anchors)
        self.activation = ModReLU(heads, anchors)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Mix (B, T, D) over T, in the dtype that came.

        Args:
            x_BTD: tokens, T >= 1.
            mask_BT: boolean, False at padding. A row's result is that of its tokens alone, zero at padding.

        Raises:
            ValueError: on an empty sequence.
        """
        if mask_BT is None:
            return self._mix(x_BTD)
        return padding.by_length(x_BTD, mask_BT, self._mix)

    def _mix(self, x_BTD: Tensor) -> Tensor:
        bins = x_BTD.shape[1] // 2 + 1
        filter_BHF = numerics.interpolate_anchors(self.filter(x_BTD.mean(dim=1)), bins)
        bias_HF = numerics.interpolate_anchors(self.activation.bias_HK, bins)
        return spectral_mix(x_BTD, filter_BHF, bias_HF, eps=self.activation.floor)
