"""The addresses of one token in few operations, without gradients: what exported decode steps hold."""

import math

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from fftnet.ops.numerics import NORM_EPS


def write_key(raw_H2F: Tensor, base_H2F: Tensor, gain_HF: Tensor) -> Tensor:
    """The keys (..., H, 2, F) that ``fftnet.ops.addresses.addresses`` makes of the tokens' own part."""
    gain_H1F = gain_HF[:, None]
    return _normalised(raw_H2F) * gain_H1F + base_H2F * gain_H1F


def read_filter(
    raw_H2F: Tensor, modulation_H2F: Tensor, base_H2F: Tensor, bias_HF: Tensor, eps: float
) -> Tensor:
    """The filters (..., H, 2, F) that ``fftnet.ops.addresses.addresses`` makes of token and context."""
    filter_H2F = _normalised(raw_H2F) + (torch.tanh(modulation_H2F) + base_H2F)
    magnitude_H1F = torch.linalg.vector_norm(filter_H2F, dim=-2, keepdim=True)
    return filter_H2F * (torch.relu(magnitude_H1F + bias_HF[:, None]) / magnitude_H1F.clamp(min=eps))


def _normalised(raw_H2F: Tensor) -> Tensor:
    # A bin's square is that of two planes, twice what rms_norm takes the mean of.
    weight_2F = raw_H2F.new_full(raw_H2F.shape[-2:], math.sqrt(0.5))
    return rms_norm(raw_H2F, raw_H2F.shape[-2:], weight_2F, NORM_EPS / 2)
