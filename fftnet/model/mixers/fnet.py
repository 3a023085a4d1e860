"""The mixer of FNet (arXiv 2105.03824): nothing learned, bidirectional; a baseline for encoders."""

from torch import Tensor, nn

from fftnet.model.config import MixerConfig
from fftnet.ops import fourier, padding


class FNetMixer(nn.Module):
    """Real part of the Fourier transform over tokens and channels.

    Orthonormal, where the original does not scale: behind it stands a residual sum, not a norm.
    """

    causal = False

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Mix (B, T, D) over T and D, in the dtype that came.

        Args:
            x_BTD: tokens, T >= 1.
            mask_BT: boolean, False at padding. A row's result is that of its tokens alone, zero at padding.

        Raises:
            ValueError: on an empty sequence.
        """
        if mask_BT is None:
            return fourier.fourier_mix(x_BTD)
        return padding.by_length(x_BTD, mask_BT, fourier.fourier_mix)
