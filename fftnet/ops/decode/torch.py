"""The portable backend of the decode step: small PyTorch operations, which ``torch.compile`` fuses."""

import torch
from torch import Tensor

from fftnet.ops.causal_mix import HeadParameters


def gate_step(
    x: Tensor, projected: Tensor, conv_weight: Tensor, conv_state: Tensor, mean: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.gate_step``."""
    total = count + 1
    mean_after = mean + (x - mean) / total[:, None]
    context = torch.cat([mean_after.to(x.dtype), x], dim=-1)
    window_BWC = torch.cat([conv_state, projected[:, None].to(conv_state.dtype)], dim=1)
    keys, values = (window_BWC * conv_weight.T).sum(dim=1).chunk(2, dim=-1)
    return context, (keys * values).to(x.dtype), window_BWC[:, 1:], mean_after.to(mean.dtype), total


def mix_step(
    values: Tensor, filter_: Tensor, parameters: HeadParameters, state: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.decode.mix_step``."""
    decay, frequency, bias, readout = parameters

    def per_bin(x: Tensor) -> Tensor:
        return x.to(state.dtype).transpose(-1, -2)[..., None]

    radius = torch.exp(-decay)
    gain = torch.sqrt(-torch.expm1(-2 * decay))
    pole_real = per_bin(radius * torch.cos(frequency))
    pole_imag = per_bin(radius * torch.sin(frequency))
    adapted = per_bin(filter_ * gain)
    old_real, old_imag = state.unbind(dim=2)
    z_real = pole_real * old_real - pole_imag * old_imag + values[:, None].to(state.dtype)
    z_imag = pole_real * old_imag + pole_imag * old_real
    square = z_real.square() + z_imag.square()
    is_zero = square == 0
    # The square root has no gradient at 0, hence the detour.
    magnitude = adapted.abs() * torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    scale = adapted * torch.relu(magnitude + per_bin(bias)) / magnitude.clamp(min=eps)
    read_out = per_bin(readout[..., 0]) * z_real - per_bin(readout[..., 1]) * z_imag
    mixed = (scale * read_out).sum(dim=1)
    return mixed.to(values.dtype), torch.stack([z_real, z_imag], dim=2)
