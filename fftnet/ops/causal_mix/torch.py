"""The portable backend of causal mixing: a blocked FFT with the rank-one carry, on any device.

Within a block the prefix transform is a zero-padded FFT convolution with lambda^j; the block before enters
through ``Z(t0 + j) += lambda^(j + 1) Z(t0 - 1)``. So no transform is longer than two blocks and no ``exp``
or ``cos`` runs over the whole length.
"""

import torch
from torch import Tensor

BLOCK = 256
"""Tokens between two checkpoints of the state."""


def powers(decay_HF: Tensor, frequency_HF: Tensor, count: int) -> Tensor:
    """``lambda^j`` for j = 0 .. count - 1, complex (count, H, F), with lambda = exp(-decay + i frequency)."""
    j = torch.arange(count, device=decay_HF.device, dtype=decay_HF.dtype)[:, None, None]
    return torch.polar(torch.exp(-decay_HF * j), frequency_HF * j)


def _convolve(x_BLHFd: Tensor, kernel_LHF: Tensor) -> Tensor:
    length = kernel_LHF.shape[0]
    spectrum = torch.fft.fft(x_BLHFd, n=2 * length, dim=1)
    response = torch.fft.fft(kernel_LHF, n=2 * length, dim=0)
    return torch.fft.ifft(spectrum * response[..., None], dim=1)[:, :length]


def _advance(v_BLHd: Tensor, powers_LHF: Tensor, carry_BHFd: Tensor) -> Tensor:
    local = _convolve(v_BLHd[:, :, :, None], powers_LHF[:-1])
    return local + powers_LHF[1:, ..., None] * carry_BHFd[:, None]


def _to_complex(planes_BF2Hd: Tensor) -> Tensor:
    return torch.complex(planes_BF2Hd[:, :, 0], planes_BF2Hd[:, :, 1]).transpose(1, 2)


def _to_planes(z_BHFd: Tensor) -> Tensor:
    return torch.stack([z_BHFd.real, z_BHFd.imag], dim=3).permute(0, 2, 3, 1, 4).contiguous()


def prefix_transform(
    v_BTHd: Tensor, decay_HF: Tensor, frequency_HF: Tensor, state_BF2Hd: Tensor
) -> tuple[Tensor, Tensor]:
    """The whole spectrum of every prefix, ``Z_k(t) = sum_{j<=t} lambda_k^(t-j) v(j)``, differentiable.

    Args:
        v_BTHd: values in float32 or float64, T >= 1.
        decay_HF: a >= 0 per token.
        frequency_HF: radians per token.
        state_BF2Hd: real and imaginary plane of Z before the first token.

    Returns:
        Complex (B, T, H, F, d), which is F times the size of ``v_BTHd``, and the state after the last token.
    """
    carry = _to_complex(state_BF2Hd)
    blocks = []
    for v_BLHd in v_BTHd.split(BLOCK, dim=1):
        z = _advance(v_BLHd, powers(decay_HF, frequency_HF, v_BLHd.shape[1] + 1), carry)
        carry = z[:, -1]
        blocks.append(z)
    return torch.cat(blocks, dim=1), _to_planes(carry)


def _gain(z: Tensor, bias_HF: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    magnitude = (z.real.square() + z.imag.square()).sqrt()
    clamped = magnitude.clamp(min=floor)
    return magnitude, clamped, torch.relu(magnitude + bias_HF[..., None]) / clamped


def forward(
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    state: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :mod:`fftnet.ops.causal_mix` for the contract of a backend."""
    carry = _to_complex(state)
    mixed, checkpoints = [], []
    for v_BLHd, filter_BLHF in zip(v.split(BLOCK, dim=1), filter_.split(BLOCK, dim=1), strict=True):
        checkpoints.append(_to_planes(carry))
        spectrum = _advance(v_BLHd, powers(decay, frequency, v_BLHd.shape[1] + 1), carry)
        carry = spectrum[:, -1]
        z = spectrum * filter_BLHF[..., None]
        z = z * _gain(z, bias, floor)[2]
        mixed.append((z.real * mixing[..., 0, None] - z.imag * mixing[..., 1, None]).sum(dim=3))
    return torch.cat(mixed, dim=1), _to_planes(carry), torch.stack(checkpoints, dim=1)


def backward(
    grad_y: Tensor,
    grad_state: Tensor,
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    checkpoints: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Walk the blocks backwards, recomputing the spectrum of each from its checkpoint."""
    carried = _to_complex(grad_state)
    grad_pole = torch.zeros_like(carried[0, ..., 0])
    grad_bias, grad_mixing = torch.zeros_like(bias), torch.zeros_like(mixing)
    grad_v, grad_filter = torch.empty_like(v), torch.empty_like(filter_)
    mixing_HF = torch.complex(mixing[..., 0], -mixing[..., 1])
    for n in reversed(range(checkpoints.shape[1])):
        span = slice(n * BLOCK, (n + 1) * BLOCK)
        v_BLHd, filter_BLHF = v[:, span], filter_[:, span, :, :, None]
        length = v_BLHd.shape[1]
        powers_LHF = powers(decay, frequency, length + 1)
        before = _to_complex(checkpoints[:, n])
        spectrum = _advance(v_BLHd, powers_LHF, before)

        z = spectrum * filter_BLHF
        magnitude, clamped, gain = _gain(z, bias, floor)
        grad_out = grad_y[:, span, :, None]
        grad_mixing[..., 0] += (grad_out * gain * z.real).sum(dim=(0, 1, 4))
        grad_mixing[..., 1] -= (grad_out * gain * z.imag).sum(dim=(0, 1, 4))
        grad_a = grad_out * mixing_HF[..., None]
        unit = z / magnitude.masked_fill(magnitude == 0, 1.0)
        radial = (grad_a * unit.conj()).real * (magnitude + bias[..., None] > 0)
        slope = magnitude / clamped
        grad_bias += (slope * radial).sum(dim=(0, 1, 4))
        grad_z = gain * grad_a + (slope - gain * (magnitude >= floor)) * radial * unit
        grad_filter[:, span] = (grad_z * spectrum.conj()).real.sum(dim=-1)

        reach = powers_LHF.conj()
        total = _convolve((grad_z * filter_BLHF).flip(1), reach[:-1]).flip(1)
        total = total + reach[:-1].flip(0)[..., None] * carried[:, None]
        grad_v[:, span] = total.real.sum(dim=3)
        earlier = torch.cat([before[:, None], spectrum[:, :-1]], dim=1)
        grad_pole += (total * earlier.conj()).sum(dim=(0, 1, 4))
        carried = reach[1][..., None] * total[:, 0]
    turned = powers(decay, frequency, 2)[1].conj() * grad_pole
    return grad_v, grad_filter, -turned.real, turned.imag, grad_bias, grad_mixing, _to_planes(carried)
