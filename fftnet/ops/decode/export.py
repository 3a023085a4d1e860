"""The decode step of ``addressed_spectral`` in few operations, for exported programs.

A runtime spends about as long on calling an operation as on its arithmetic here. So each tensor stays whole:
both planes of a complex number go through one operation, with signs that need no other one after it.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from fftnet.ops.addresses.export import read_filter, write_key
from fftnet.ops.decode.eager import context_step, delta_step
from fftnet.ops.numerics import NORM_EPS

__all__ = ["address_step", "context_step", "delta_step"]

QUARTER = math.pi / 2


def address_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.address_step``; computed in the dtype of the spectrum."""
    projected, raw_filter, modulation, clock, gate, parameters, conv_state, spectrum, eps = arguments
    dtype = spectrum.dtype
    device = spectrum.device
    conv_weight, base_key, base_filter, bias, decay, frequency, norm_weight = (
        x.to(dtype) for x in parameters
    )
    heads, width = norm_weight.shape
    window_BWC = torch.cat([conv_state, projected[:, None].to(conv_state.dtype)], dim=1)
    tapped_BWC = window_BWC.to(dtype) * conv_weight.T
    # A product with ones is a sum, and a faster one than a sum over a dimension in the middle.
    convolved_B1C = tapped_BWC.new_ones(1, conv_weight.shape[1]) @ tapped_BWC
    value_B1D, raw_key_B1A = convolved_B1C.split([heads * width, raw_filter.shape[1]], dim=2)
    value_BH11d = silu(value_B1D).view(-1, heads, 1, 1, width)
    key_BH2F1 = write_key(raw_key_B1A, base_key, torch.sqrt(-torch.expm1(-2 * decay)))
    filter_BH21F, _ = read_filter(raw_filter.to(dtype), modulation.to(dtype), base_filter, bias, eps)

    # The pole's real part for both planes, then minus and plus its imaginary part, for the real and the
    # imaginary plane. One sine makes all three: cos(a) = sin(a + pi / 2) and -sin(a) = sin(a + pi).
    phase_311 = torch.tensor([QUARTER, 2 * QUARTER, 0.0], dtype=dtype, device=device)[:, None, None]
    time_BH111 = clock.to(dtype).view(-1, heads, 1, 1, 1)
    frequency_H3F1 = frequency[:, None, :, None].expand(-1, 3, -1, -1)
    sine_BH3F1 = torch.sin(time_BH111 * frequency_H3F1 + phase_311)
    pole_BH3F1 = torch.exp(time_BH111 * -decay[:, None, :, None]) * sine_BH3F1
    real_BH1F1, imag_BH2F1 = pole_BH3F1.split([1, 2], dim=2)
    swapped_BH2Fd = spectrum.index_select(2, torch.tensor([1, 0], device=device))
    after_BH2Fd = spectrum * real_BH1F1 + swapped_BH2Fd * imag_BH2F1 + key_BH2F1 * value_BH11d

    sign_211 = torch.tensor([1.0, -1.0], dtype=dtype, device=device)[:, None, None]
    read_BHd = ((filter_BH21F * sign_211) @ after_BH2Fd).sum(dim=(2, 3))
    normed_BHd = read_BHd * torch.rsqrt(read_BHd.square().mean(dim=-1, keepdim=True) + NORM_EPS) * norm_weight
    # The gate stays flat, which saves the view of one tensor.
    gated_BD = normed_BHd.flatten(1) * torch.sigmoid(gate.to(dtype))
    return gated_BD.to(projected.dtype), window_BWC[:, 1:], after_BH2Fd
