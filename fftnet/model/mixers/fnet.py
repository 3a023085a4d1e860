"""The mixer of FNet (arXiv 2105.03824): bidirectional, without parameters; a baseline for encoders."""

from dataclasses import dataclass

from torch import Tensor

from fftnet.fields import documented
from fftnet.model.mixers.base import ByLengthMixer
from fftnet.ops import fourier


@documented
@dataclass(frozen=True, kw_only=True)
class FNetConfig:
    """Configuration without fields."""


class FNetMixer(ByLengthMixer):
    """Real part of the Fourier transform over tokens and channels.

    Orthonormal, while the original is not scaled: here a residual sum follows instead of a norm.
    """

    Config = FNetConfig

    def _mix(self, x_BTD: Tensor) -> Tensor:
        return fourier.fourier_mix(x_BTD)
