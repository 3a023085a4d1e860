"""FFTNet: token mixing by an adaptive spectral filter in place of self-attention."""

from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_layer import FFTNetLayer
from fftnet.model.fftnet_model import FFTNet

__all__ = ["FFTNet", "FFTNetConfig", "FFTNetLayer"]
