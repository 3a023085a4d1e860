"""The portable backend of the decode step: small PyTorch operations, which ``torch.compile`` fuses."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from fftnet.ops.addresses.eager import addresses
from fftnet.ops.gated_norm.eager import gated_norm
from fftnet.ops.numerics import NORM_EPS
from fftnet.ops.rotary import rotary


def context_step(
    projected: Tensor, mean: Tensor, count: Tensor, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.context_step``."""
    total = count + 1
    size = total if horizon is None else total.clamp(max=horizon)
    mean_after = mean + (projected - mean) / size[:, None]
    context = torch.cat([mean_after.to(projected.dtype), projected], dim=-1)
    return context, mean_after.to(mean.dtype), total


def _convolve(projected: Tensor, conv_weight: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor]:
    window_BWC = torch.cat([conv_state, projected[:, None].to(conv_state.dtype)], dim=1)
    return (window_BWC * conv_weight.T).sum(dim=1), window_BWC[:, 1:]


def _pass_time(state: Tensor, radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return both planes of ``radius exp(i angle) Z``, with the planes of Z along dimension 2."""
    real, imag = state.unbind(dim=2)
    cos = radius * torch.cos(angle)
    sin = radius * torch.sin(angle)
    return cos * real - sin * imag, cos * imag + sin * real


def address_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.address_step``; computed in the dtype of the spectrum."""
    projected, raw_filter, modulation, clock, gate, parameters, conv_state, spectrum, eps = arguments
    dtype = spectrum.dtype
    conv_weight, base_key, base_filter, bias, decay, frequency, norm_weight = (
        x.to(dtype) for x in parameters
    )
    # Section 3 of docs/maths.md, step 1: values, then raw keys.
    heads, width = norm_weight.shape
    convolved, new_conv_state = _convolve(projected, conv_weight, conv_state)
    values_BHd = silu(convolved[:, : heads * width]).to(dtype).unflatten(-1, (heads, width))
    # Steps 2 and 5, as for a text of one token.
    raw = (convolved[:, heads * width :], raw_filter, modulation.flatten(1))
    streams = [x[:, None].to(dtype).unflatten(-1, base_key.shape) for x in raw]
    gain = torch.sqrt(-torch.expm1(-2 * decay))
    key, filter_ = addresses(*streams, base_key, base_filter, bias, gain, eps)
    # Steps 3 and 6: the recurrence and its read-out.
    time_BH1 = clock.to(dtype)[..., None]
    radius_BHF1 = torch.exp(-time_BH1 * decay)[..., None]
    z_real, z_imag = _pass_time(spectrum, radius_BHF1, (time_BH1 * frequency)[..., None])
    key_real, key_imag = key[:, 0, ..., None].unbind(dim=2)
    z_real = z_real + key_real * values_BHd[:, :, None]
    z_imag = z_imag + key_imag * values_BHd[:, :, None]
    filter_real, filter_imag = filter_[:, 0, ..., None].unbind(dim=2)
    read_BHd = (filter_real * z_real - filter_imag * z_imag).sum(dim=2)
    # Step 7.
    gate_BHd = gate.to(dtype).unflatten(-1, (heads, width))
    mixed_BD = gated_norm(read_BHd, gate_BHd, norm_weight).flatten(1)
    return mixed_BD.to(projected.dtype), new_conv_state, torch.stack([z_real, z_imag], dim=2)


def delta_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.delta_step``; computed in the dtype of the spectrum."""
    *token, parameters, conv_state, spectrum, phase, eps = arguments
    projected, modulation, clock, erase, rotation, gate = token
    dtype = spectrum.dtype
    conv_weight, base_key, base_filter, bias, decay, frequency, norm_weight = (
        x.to(dtype) for x in parameters
    )
    heads, bins = decay.shape
    convolved, new_conv_state = _convolve(projected, conv_weight, conv_state)
    widths = [2 * heads * norm_weight.shape[0], 4 * heads * bins]
    opened_BI2, raw_BA2 = convolved.to(dtype).split(widths, dim=1)
    values_BHd, gate_BHd = silu(opened_BI2).unflatten(1, (2, heads, -1)).unbind(dim=1)
    # Keys and filters as for a text of one token.
    raw_key, raw_filter = raw_BA2.view(-1, 2, 1, heads, 2, bins).unbind(dim=1)
    scales = (base_key, base_filter, bias, torch.ones_like(bias))
    key, filter_ = addresses(raw_key, raw_filter, modulation[:, None].to(dtype), *scales, eps)
    key, filter_, new_phase = rotary(key, filter_, rotation[:, None], gate[:, None], phase)
    key_BH2F1 = key[:, 0, ..., None]
    key_BH2F1 = key_BH2F1 * torch.rsqrt(key_BH2F1.square().sum(dim=(2, 3), keepdim=True) + NORM_EPS)
    time_BH1 = clock.to(dtype)[..., None]
    radius_BHF1 = torch.exp(-time_BH1 * decay)[..., None]
    z_BH2Fd = torch.stack(_pass_time(spectrum, radius_BHF1, (time_BH1 * frequency)[..., None]), dim=2)
    # The delta rule: what the key reads is replaced by the value, as far as the erase strength says.
    found_BHd = (key_BH2F1 * z_BH2Fd).sum(dim=(2, 3))
    new_BHd = erase.to(dtype)[..., None] * (values_BHd - found_BHd)
    z_BH2Fd = z_BH2Fd + key_BH2F1 * new_BHd[:, :, None, None]
    filter_real, filter_imag = filter_[:, 0, ..., None].unbind(dim=2)
    read_BHd = (filter_real * z_BH2Fd[:, :, 0] - filter_imag * z_BH2Fd[:, :, 1]).sum(dim=2)
    gated_BHd = read_BHd * gate_BHd
    mixed_BHd = gated_BHd * torch.rsqrt(gated_BHd.square().mean(dim=-1, keepdim=True) + NORM_EPS)
    mixed_BI = (mixed_BHd * norm_weight).flatten(1)
    return mixed_BI.to(projected.dtype), new_conv_state, z_BH2Fd, new_phase
