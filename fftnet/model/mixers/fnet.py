"""The mixer of FNet (arXiv 2105.03824): nothing learned, bidirectional; a baseline for encoders."""

from dataclasses import dataclass

from torch import Tensor

from fftnet.fields import documented
from fftnet.model.checks import check_input
from fftnet.model.mixers.base import Mixer
from fftnet.ops import fourier, padding


@documented
@dataclass(frozen=True, kw_only=True)
class FNetConfig:
    """Nothing to choose."""


class FNetMixer(Mixer):
    """Real part of the Fourier transform over tokens and channels.

    Orthonormal, where the original does not scale: behind it stands a residual sum, not a norm.
    """

    Config = FNetConfig

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mix (B, T, D) over T and D, in the dtype that came.

        Args:
            x: tokens, T >= 1.
            attention_mask: boolean (B, T), False at padding. A row's result is that of its tokens alone, zero
                at padding.

        Raises:
            ValueError: on an empty sequence, or shapes that do not belong together.
        """
        check_input(x, self.d_model, attention_mask)
        if attention_mask is None:
            return fourier.fourier_mix(x)
        return padding.by_length(x, attention_mask, fourier.fourier_mix)
