"""The portable backend of causal mixing: a blocked FFT convolution that carries a state, on any device.

Within a block the prefix transform is a zero-padded FFT convolution with lambda^j; the block before enters
through ``Z(t0 + j) += lambda^(j + 1) Z(t0 - 1)`` ("It is a recurrence" in docs/maths.md, section 2). So no
transform is longer than two blocks, and no ``exp`` or ``cos`` runs over the whole length.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.numerics import to_complex, to_planes

BLOCK = 256  # Tokens between two checkpoints of the state.


def powers(decay: Tensor, frequency: Tensor, count: int) -> Tensor:
    """``lambda^j`` for j = 0 .. count - 1, complex (count, H, F), with lambda = exp(-decay + i frequency)."""
    j = torch.arange(count, device=decay.device, dtype=decay.dtype)[:, None, None]
    return torch.polar(torch.exp(-decay * j), frequency * j)


def _convolve(x_BLHFd: Tensor, kernel_LHF: Tensor) -> Tensor:
    # Twice the length, so that the end of the convolution does not wrap around to the first tokens.
    length = kernel_LHF.shape[0]
    spectrum = torch.fft.fft(x_BLHFd, n=2 * length, dim=1)
    response = torch.fft.fft(kernel_LHF, n=2 * length, dim=0)
    return torch.fft.ifft(spectrum * response[..., None], dim=1)[:, :length]


def _advance(v_BLHd: Tensor, powers_LHF: Tensor, carry_BHFd: Tensor) -> Tensor:
    # A head shares its powers among channels and rows, so values have F = 1 here.
    local = _convolve(v_BLHd[:, :, :, None], powers_LHF[:-1])
    return local + powers_LHF[1:, ..., None] * carry_BHFd[:, None]


def _from_state(state_BF2Hd: Tensor) -> Tensor:
    return to_complex(state_BF2Hd, 2).transpose(1, 2)


def _to_state(z_BHFd: Tensor) -> Tensor:
    return to_planes(z_BHFd.transpose(1, 2), 2)


def prefix_transform(
    values: Tensor, decay: Tensor, frequency: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return all ``Z_k(t) = sum_{j<=t} lambda_k^(t-j) v(j)``, complex (B, T, H, F, d), and the last state."""
    carry_BHFd = _from_state(state)
    blocks = []
    for v_BLHd in values.split(BLOCK, dim=1):
        z_BLHFd = _advance(v_BLHd, powers(decay, frequency, v_BLHd.shape[1] + 1), carry_BHFd)
        carry_BHFd = z_BLHFd[:, -1]
        blocks.append(z_BLHFd)
    return torch.cat(blocks, dim=1), _to_state(carry_BHFd)


def _gain(z: Tensor, bias_HF: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return modReLU's magnitude, clamped magnitude and their gain, of which step 4 is ``gain z``."""
    magnitude = (z.real.square() + z.imag.square()).sqrt()
    clamped = magnitude.clamp(min=eps)
    return magnitude, clamped, torch.relu(magnitude + bias_HF[..., None]) / clamped


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix`` and ``fftnet.ops.registration``."""
    values, filter_, decay, frequency, bias, readout, state, eps = arguments
    carry_BHFd = _from_state(state)
    mixed = []
    checkpoints = []
    for v_BLHd, filter_BLHF in zip(values.split(BLOCK, dim=1), filter_.split(BLOCK, dim=1), strict=True):
        checkpoints.append(_to_state(carry_BHFd))
        spectrum = _advance(v_BLHd, powers(decay, frequency, v_BLHd.shape[1] + 1), carry_BHFd)
        carry_BHFd = spectrum[:, -1]
        # Step 4: the filter, then modReLU.
        z = spectrum * filter_BLHF[..., None]
        z = z * _gain(z, bias, eps)[2]
        # Step 5: Re(C A) = Re C Re A - Im C Im A.
        mixed.append((z.real * readout[..., 0, None] - z.imag * readout[..., 1, None]).sum(dim=3))
    return torch.cat(mixed, dim=1), _to_state(carry_BHFd), torch.stack(checkpoints, dim=1)


def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Walk the blocks backwards, recomputing the spectrum of each from its checkpoint."""
    values, filter_, decay, frequency, bias, readout, checkpoints, grad_mixed, grad_last, eps = arguments
    carry_BHFd = _from_state(grad_last)
    grad_pole_HF = carry_BHFd.new_zeros(decay.shape)
    grad_bias = torch.zeros_like(bias)
    grad_readout = torch.zeros_like(readout)
    grad_values, grad_filter = torch.empty_like(values), torch.empty_like(filter_)
    readout_HF = to_complex(readout, -1).conj()
    for n in reversed(range(checkpoints.shape[1])):
        span = slice(n * BLOCK, (n + 1) * BLOCK)
        v_BLHd = values[:, span]
        filter_BLHF1 = filter_[:, span, :, :, None]
        powers_LHF = powers(decay, frequency, v_BLHd.shape[1] + 1)
        before_BHFd = _from_state(checkpoints[:, n])
        spectrum = _advance(v_BLHd, powers_LHF, before_BHFd)

        # Through read-out and modReLU, to the spectrum as it enters the filter.
        z = spectrum * filter_BLHF1
        magnitude, clamped, gain = _gain(z, bias, eps)
        grad_out = grad_mixed[:, span, :, None]
        grad_readout += torch.view_as_real((grad_out * gain * z.conj()).sum(dim=(0, 1, 4)))
        grad_a = grad_out * readout_HF[..., None]
        # The gain depends on |z| only, so its gradient points along z.
        unit = z / magnitude.masked_fill(magnitude == 0, 1.0)
        radial = (grad_a * unit.conj()).real * (magnitude + bias[..., None] > 0)
        slope = magnitude / clamped
        grad_bias += (slope * radial).sum(dim=(0, 1, 4))
        grad_z = gain * grad_a + (slope - gain * (magnitude >= eps)) * radial * unit
        grad_filter[:, span] = (grad_z * spectrum.conj()).real.sum(dim=-1)

        # The adjoint of the recurrence is the same recurrence, conjugated and backwards in time.
        conjugate_LHF = powers_LHF.conj()
        adjoint = _convolve((grad_z * filter_BLHF1).flip(1), conjugate_LHF[:-1]).flip(1)
        adjoint = adjoint + conjugate_LHF[:-1].flip(0)[..., None] * carry_BHFd[:, None]
        grad_values[:, span] = adjoint.real.sum(dim=3)
        earlier = torch.cat([before_BHFd[:, None], spectrum[:, :-1]], dim=1)
        grad_pole_HF += (adjoint * earlier.conj()).sum(dim=(0, 1, 4))
        carry_BHFd = conjugate_LHF[1][..., None] * adjoint[:, 0]
    # From the pole to its exponent, d lambda = lambda (-da + i dw).
    rate_HF = powers(decay, frequency, 2)[1].conj() * grad_pole_HF
    grads = (grad_values, grad_filter, -rate_HF.real, rate_HF.imag, grad_bias, grad_readout)
    return *grads, _to_state(carry_BHFd)
