"""The decode step of a mixer with addresses in few operations: what exported programs hold.

A runtime spends about as long on calling an operation as on its arithmetic here, so each tensor is kept
whole: both planes of a complex number go through one operation, in the signs that need none after it. The
operations are ``torch``'s for the mixer without addresses.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import silu

from fftnet.ops.addresses.export import read_filter, write_key
from fftnet.ops.decode.parameters import AddressedParameters
from fftnet.ops.decode.torch import context_step, gate_step, mix_step
from fftnet.ops.gated_norm.torch import gated_norm

__all__ = ["address_step", "context_step", "gate_step", "mix_step"]

QUARTER = math.pi / 2


def address_step(
    projected: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    clock: Tensor,
    gate: Tensor,
    parameters: AddressedParameters,
    conv_state: Tensor,
    spectrum: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.address_step``; for tensors of one dtype."""
    conv_weight, base_key, base_filter, bias, decay, frequency, norm_weight = parameters
    heads, width = norm_weight.shape
    planes = base_key.shape
    window_BWC = torch.cat([conv_state, projected[:, None]], dim=1)
    value_BD, raw_key_BA = (window_BWC * conv_weight.T).sum(dim=1).split(
        [heads * width, raw_filter.shape[1]], dim=1
    )
    value_BH11d = silu(value_BD).view(-1, heads, 1, 1, width)
    key_BH2F = write_key(raw_key_BA.view(-1, *planes), base_key, torch.sqrt(-torch.expm1(-2 * decay)))
    filter_BH2F = read_filter(raw_filter.view(-1, *planes), modulation, base_filter, bias, eps)

    # The pole's real part for both planes, and its imaginary part with the sign that each plane takes: the
    # cosine of an angle is its sine a quarter turn later.
    phase_31 = torch.tensor([[QUARTER], [2 * QUARTER], [0.0]], dtype=decay.dtype)
    time_BH11 = clock.view(-1, heads, 1, 1)
    angle_BH3F = time_BH11 * frequency[:, None].expand(-1, 3, -1) + phase_31
    pole_BH3F1 = (torch.exp(time_BH11 * -decay[:, None]) * torch.sin(angle_BH3F))[..., None]
    real_BH1F1, imag_BH2F1 = pole_BH3F1.split([1, 2], dim=2)
    swapped_BH2Fd = spectrum.index_select(2, torch.tensor([1, 0]))
    after_BH2Fd = spectrum * real_BH1F1 + swapped_BH2Fd * imag_BH2F1 + key_BH2F[..., None] * value_BH11d

    sign_21 = torch.tensor([[1.0], [-1.0]], dtype=decay.dtype)
    read_BHd = ((filter_BH2F * sign_21)[..., None, :] @ after_BH2Fd).sum(dim=(2, 3))
    gated_BHd = gated_norm(read_BHd, gate.view(-1, heads, width), norm_weight)
    return gated_BHd.flatten(1), window_BWC[:, 1:], after_BH2Fd
