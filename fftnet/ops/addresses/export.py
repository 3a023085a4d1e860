"""Addresses of one token in few operations, without gradients, for exported decode steps.

A column (..., F, 1) of keys times a row of values is the outer product that a step adds to the state; a row
(..., 1, F) of filters times the state is its read-out. Hence the two layouts.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from fftnet.ops.numerics import NORM_EPS


def write_key(raw: Tensor, base_H2F: Tensor, gain_HF: Tensor) -> Tensor:
    """Return the keys of ``fftnet.ops.addresses.addresses`` as columns (B, H, 2, F, 1)."""
    gain_H1F1 = gain_HF[:, None, :, None]
    raw_BH2F1 = raw.view(-1, *base_H2F.shape, 1)
    return _normalized(raw_BH2F1) * gain_H1F1 + base_H2F[..., None] * gain_H1F1


def read_filter(
    raw_BA: Tensor, modulation_BH2F: Tensor, base_H2F: Tensor, bias_HF: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the filters as rows (B, H, 2, 1, F), then their magnitude (B, H, 1, 1, F)."""
    heads, planes, bins = base_H2F.shape
    shape = (-1, heads, planes, 1, bins)
    base_H21F = base_H2F[:, :, None]
    modulation_BH21F = modulation_BH2F.flatten(1).view(shape)
    filter_BH21F = _normalized(raw_BA.view(shape)) + (torch.tanh(modulation_BH21F) + base_H21F)
    magnitude_BH11F = torch.linalg.vector_norm(filter_BH21F, dim=2, keepdim=True)
    gain_BH11F = torch.relu(magnitude_BH11F + bias_HF[:, None, None]) / magnitude_BH11F.clamp(min=eps)
    return filter_BH21F * gain_BH11F, magnitude_BH11F * gain_BH11F


def _normalized(raw: Tensor) -> Tensor:
    # The square of a bin is the sum of two planes, twice the mean that rms_norm takes.
    weight = raw.new_full(raw.shape[2:], math.sqrt(0.5))
    return rms_norm(raw, raw.shape[2:], weight, NORM_EPS / 2)
