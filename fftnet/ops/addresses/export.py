"""The addresses of one token in few operations, without gradients: what exported decode steps hold."""

import math

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from fftnet.ops.numerics import NORM_EPS


def write_key(raw: Tensor, base_H2F: Tensor, gain_HF: Tensor) -> Tensor:
    """The keys that ``fftnet.ops.addresses.addresses`` makes, as columns (B, H, 2, F, 1)."""
    gain_H1F1 = gain_HF[:, None, :, None]
    raw_BH2F1 = raw.view(-1, *base_H2F.shape, 1)
    return _normalised(raw_BH2F1) * gain_H1F1 + base_H2F[..., None] * gain_H1F1


def read_filter(
    raw_BA: Tensor, modulation_BH2F: Tensor, base_H2F: Tensor, bias_HF: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The filters that ``fftnet.ops.addresses.addresses`` makes, as rows (B, H, 2, 1, F).

    Also their magnitude (B, H, 1, 1, F).
    """
    heads, planes, bins = base_H2F.shape
    shape = (-1, heads, planes, 1, bins)
    base_H21F = base_H2F[:, :, None]
    modulation_BH21F = modulation_BH2F.flatten(1).view(shape)
    filter_BH21F = _normalised(raw_BA.view(shape)) + (torch.tanh(modulation_BH21F) + base_H21F)
    magnitude_BH11F = torch.linalg.vector_norm(filter_BH21F, dim=2, keepdim=True)
    gain_BH11F = torch.relu(magnitude_BH11F + bias_HF[:, None, None]) / magnitude_BH11F.clamp(min=eps)
    return filter_BH21F * gain_BH11F, magnitude_BH11F * gain_BH11F


def _normalised(raw: Tensor) -> Tensor:
    """Of (B, H, 2, F) with a dimension of 1 more."""
    # A bin's square is that of two planes, twice what rms_norm takes the mean of.
    weight = raw.new_full(raw.shape[2:], math.sqrt(0.5))
    return rms_norm(raw, raw.shape[2:], weight, NORM_EPS / 2)
