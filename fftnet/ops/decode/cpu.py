"""The decode step's kernels: everything between its matrix products, in two calls a layer.

At one token a call costs more than its arithmetic, so two calls replace fifty small operations. Loops over
channels are plain ones: without a recurrence, the compiler makes vectors of them. See ``fftnet.ops.cpu`` for
how to read kernels. A work item is one row of the batch.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import modrelu_scale
from fftnet.ops.cpu.threads import threads
from fftnet.ops.numerics import NORM_EPS

FOREVER = 1 << 62  # Horizon of a mean that never forgets.


@jit
def _context(first, last, x, mean, count, horizon, context, new_mean, new_count):  # pyright: ignore
    """Context [mean; x], with the running mean over at most ``horizon`` tokens."""
    D = x.shape[1]
    for b in range(first, last):
        # mean(t) = mean(t-1) + (x(t) - mean(t-1)) / n(t), exact however long the text is.
        new_count[b] = count[b] + 1
        share = x.dtype.type(1) / x.dtype.type(min(new_count[b], horizon))
        for c in range(D):
            new_mean[b, c] = mean[b, c] + share * (x[b, c] - mean[b, c])
            context[b, c] = new_mean[b, c]
            context[b, D + c] = x[b, c]


@jit
def _convolve(b, projected, weight, past, convolved):  # pyright: ignore
    """All channels of row b convolved at the newest token; ``weight`` (C, W) has its tap last."""
    P = past.shape[1]
    for c in range(projected.shape[1]):
        total = weight[c, P] * projected[b, c]
        for i in range(P):
            total += weight[c, i] * past[b, i, c]
        convolved[c] = total


@jit
def _remember(b, projected, past, new_past):  # pyright: ignore
    """Shift the last P tokens by one, and append the newest."""
    P = past.shape[1]
    for i in range(P):
        for c in range(past.shape[2]):
            new_past[b, i, c] = past[b, i + 1, c] if i + 1 < P else projected[b, c]


@jit
def _pole(time, decay, frequency):  # pyright: ignore
    """Return exp(time mu), real and imaginary part."""
    radius = np.exp(-time * decay)
    return radius * np.cos(time * frequency), radius * np.sin(time * frequency)


@jit
def _gain(decay):  # pyright: ignore
    """g = sqrt(1 - |lambda|^2), without the loss of digits for slow decays."""
    return np.sqrt(-np.expm1(-decay - decay))


@jit
def _inverse_rms(x, start, size):  # pyright: ignore
    """1 / rms of ``size`` complex numbers, whose real and then imaginary parts begin at ``x[start]``."""
    number = x.dtype.type
    total = number(0)
    for n in range(start, start + size + size):
        total += x[n] * x[n]
    return number(1) / np.sqrt(total / number(size) + number(NORM_EPS))


@jit
def _silu(x, size):  # pyright: ignore
    """Replace the first numbers of x by x sigmoid(x)."""
    one = x.dtype.type(1)
    for c in range(size):
        x[c] = x[c] / (one + np.exp(-x[c]))


@jit
def _filter(raw, start, scale, b, h, k, modulation, base_filter, bias, eps):  # pyright: ignore
    """Read filter of a bin: base, modulation and the token's own part, then modReLU (section 3, step 5)."""
    F = bias.shape[1]
    filter_re = base_filter[h, 0, k] + np.tanh(modulation[b, h, 0, k]) + scale * raw[start + k]
    filter_im = base_filter[h, 1, k] + np.tanh(modulation[b, h, 1, k]) + scale * raw[start + F + k]
    magnitude = np.sqrt(filter_re * filter_re + filter_im * filter_im)
    scale = modrelu_scale(magnitude, bias[h, k], eps)
    return scale * filter_re, scale * filter_im


@jit
def _norm_scale(y):  # pyright: ignore
    """1 / rms of a row."""
    number = y.dtype.type
    power = number(0)
    for c in range(len(y)):
        power += y[c] * y[c]
    return number(1) / np.sqrt(power / number(len(y)) + number(NORM_EPS))


@jit
def _address(  # pyright: ignore
    first,
    last,
    projected,
    raw_filter,
    modulation,
    clock,
    gate,
    weight,
    base_key,
    base_filter,
    bias,
    decay,
    frequency,
    norm_weight,
    past,
    spectrum,
    eps,
    mixed,
    new_past,
    new_spectrum,
):
    # The numbers of steps are those of docs/maths.md, section 3.
    H, F = decay.shape
    d = norm_weight.shape[1]
    D = H * d
    number = projected.dtype.type
    one = number(1)
    convolved = np.empty(projected.shape[1], projected.dtype)
    for b in range(first, last):
        # Step 1: D channels of values, which pass through SiLU, then 2 F raw keys for each head.
        _convolve(b, projected, weight, past, convolved)
        _silu(convolved, D)
        _remember(b, projected, past, new_past)
        # Heads share nothing from here on.
        for h in range(H):
            start = 2 * h * F
            key_scale = _inverse_rms(convolved, D + start, F)
            filter_scale = _inverse_rms(raw_filter[b], start, F)
            y = mixed[b, h * d : (h + 1) * d]
            y[:] = number(0)
            for k in range(F):
                # Step 2: the write key.
                gain = _gain(decay[h, k])
                key_re = gain * (base_key[h, 0, k] + key_scale * convolved[D + start + k])
                key_im = gain * (base_key[h, 1, k] + key_scale * convolved[D + start + F + k])
                filter_re, filter_im = _filter(
                    raw_filter[b], start, filter_scale, b, h, k, modulation, base_filter, bias, eps
                )
                pole_re, pole_im = _pole(clock[b, h], decay[h, k], frequency[h, k])
                for c in range(d):
                    # Step 3, Z = exp(clock mu) Z + key v, and step 6, y = Re sum_k filter_k Z_k.
                    value = convolved[h * d + c]
                    old_re = spectrum[b, h, 0, k, c]
                    old_im = spectrum[b, h, 1, k, c]
                    z_re = pole_re * old_re - pole_im * old_im + key_re * value
                    z_im = pole_re * old_im + pole_im * old_re + key_im * value
                    new_spectrum[b, h, 0, k, c] = z_re
                    new_spectrum[b, h, 1, k, c] = z_im
                    y[c] += filter_re * z_re - filter_im * z_im
            # Step 7: read-out norm and gate.
            scale = _norm_scale(y)
            # sigmoid(gate) = 1 / (1 + exp(-gate)).
            for c in range(d):
                y[c] *= norm_weight[h, c] * scale / (one + np.exp(-gate[b, h * d + c]))


@jit
def _turn(b, h, k, rotation, gate, phase, new_phase):  # pyright: ignore
    """Set the new phase of a bin, in revolutions; return cosine and sine of its angle."""
    number = phase.dtype.type
    largest = number(0.5) / (number(1) + np.exp(-gate[b, h]))
    new = phase[b, h, k] + largest * np.tanh(rotation[b, h, k])
    new -= np.rint(new)
    new_phase[b, h, k] = new
    angle = number(2 * np.pi) * new
    return np.cos(angle), np.sin(angle)


@jit
def _delta(  # pyright: ignore
    first,
    last,
    projected,
    modulation,
    clock,
    erase,
    rotation,
    rotation_gate,
    weight,
    base_key,
    base_filter,
    bias,
    decay,
    frequency,
    norm_weight,
    past,
    spectrum,
    phase,
    eps,
    mixed,
    new_past,
    new_spectrum,
    new_phase,
):
    # docs/maths.md, section 4.
    H, F = decay.shape
    d = norm_weight.shape[0]
    width = H * d
    keys = 2 * width
    filters = keys + 2 * H * F
    number = projected.dtype.type
    convolved = np.empty(projected.shape[1], projected.dtype)
    key = np.empty(2 * F, projected.dtype)
    read = np.empty(2 * F, projected.dtype)
    found = np.empty(d, projected.dtype)
    for b in range(first, last):
        # Values, gates, raw keys, raw filters; the first two pass through SiLU.
        _convolve(b, projected, weight, past, convolved)
        _silu(convolved, keys)
        _remember(b, projected, past, new_past)
        for h in range(H):
            key_start = keys + 2 * h * F
            filter_start = filters + 2 * h * F
            key_scale = _inverse_rms(convolved, key_start, F)
            filter_scale = _inverse_rms(convolved, filter_start, F)
            square = number(NORM_EPS)
            for n in range(2 * F):
                key[n] = base_key[h, n // F, n % F] + key_scale * convolved[key_start + n]
                square += key[n] * key[n]
            found[:] = number(0)
            for k in range(F):
                cos, sin = _turn(b, h, k, rotation, rotation_gate, phase, new_phase)
                key_re = key[k] / np.sqrt(square)
                key_im = key[F + k] / np.sqrt(square)
                key[k] = cos * key_re + sin * key_im
                key[F + k] = cos * key_im - sin * key_re
                filter_re, filter_im = _filter(
                    convolved, filter_start, filter_scale, b, h, k, modulation, base_filter, bias, eps
                )
                read[k] = cos * filter_re - sin * filter_im
                read[F + k] = -(cos * filter_im + sin * filter_re)
                pole_re, pole_im = _pole(clock[b, h], decay[h, k], frequency[h, k])
                for c in range(d):
                    # Z = exp(clock mu) Z, and what the key reads.
                    old_re = spectrum[b, h, 0, k, c]
                    old_im = spectrum[b, h, 1, k, c]
                    z_re = pole_re * old_re - pole_im * old_im
                    z_im = pole_re * old_im + pole_im * old_re
                    new_spectrum[b, h, 0, k, c] = z_re
                    new_spectrum[b, h, 1, k, c] = z_im
                    found[c] += key[k] * z_re + key[F + k] * z_im
            y = mixed[b, h * d : (h + 1) * d]
            y[:] = number(0)
            for c in range(d):
                found[c] = erase[b, h] * (convolved[h * d + c] - found[c])
            for n in range(2 * F):
                for c in range(d):
                    z = new_spectrum[b, h, n // F, n % F, c] + key[n] * found[c]
                    new_spectrum[b, h, n // F, n % F, c] = z
                    y[c] += read[n] * z
            # Gate, then norm.
            for c in range(d):
                y[c] *= convolved[width + h * d + c]
            scale = _norm_scale(y)
            for c in range(d):
                y[c] *= norm_weight[c] * scale


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x if x.is_contiguous() else x.contiguous() for x in tensors]


def context_step(
    projected: Tensor, mean: Tensor, count: Tensor, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.context_step``; both floating tensors have one dtype."""
    projected, mean, count = _contiguous(projected, mean, count)
    context = projected.new_empty(projected.shape[0], 2 * projected.shape[1])
    outputs = (context, torch.empty_like(mean), torch.empty_like(count))
    arguments = (projected, mean, count, horizon or FOREVER, *outputs)
    threads.run(_context, projected.shape[0], projected.numel(), *arguments)
    return outputs


def address_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.address_step``; all tensors have one dtype."""
    *token, parameters, conv_state, spectrum, eps = arguments
    inputs = _contiguous(*token, *parameters, conv_state, spectrum)
    # Mixed values have the shape of the gate; states are new tensors, never changed under their owner.
    outputs = (torch.empty_like(inputs[4]), torch.empty_like(inputs[12]), torch.empty_like(inputs[13]))
    threads.run(_address, spectrum.shape[0], spectrum.numel(), *inputs, eps, *outputs)
    return outputs


def delta_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.delta_step``; all tensors have one dtype."""
    *token, parameters, conv_state, spectrum, phase, eps = arguments
    inputs = _contiguous(*token, *parameters, conv_state, spectrum, phase)
    mixed = spectrum.new_empty(len(spectrum), spectrum.shape[1] * spectrum.shape[4])
    outputs = (
        mixed,
        torch.empty_like(inputs[-3]),
        torch.empty_like(inputs[-2]),
        torch.empty_like(inputs[-1]),
    )
    threads.run(_delta, len(spectrum), spectrum.numel(), *inputs, eps, *outputs)
    return outputs
