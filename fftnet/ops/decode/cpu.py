"""The decode step's kernels: what stands between its matrix products, in two calls a layer.

At one token a call costs more than its arithmetic, so these do in two what takes fifty small operations. The
loops over channels are plain ones here: there is no recurrence, so nothing has to stay in registers.
See ``fftnet.ops.cpu`` for how to read kernels. A work item is one row of the batch.
"""

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.causal_mix import HeadParameters
from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.threads import threads
from fftnet.ops.decode import AddressedParameters
from fftnet.ops.numerics import NORM_EPS

FOREVER = 1 << 62
"""The horizon of a mean that never forgets."""


@jit
def _read_context(b, x, mean, count, horizon, context, new_mean, new_count):  # pyright: ignore
    D = x.shape[1]
    new_count[b] = count[b] + 1
    share = x.dtype.type(1) / x.dtype.type(min(new_count[b], horizon))
    for c in range(D):
        new_mean[b, c] = mean[b, c] + share * (x[b, c] - mean[b, c])
        context[b, c] = new_mean[b, c]
        context[b, D + c] = x[b, c]


@jit
def _remember(b, projected, past, new_past):  # pyright: ignore
    P = past.shape[1]
    for i in range(P):
        for c in range(past.shape[2]):
            new_past[b, i, c] = past[b, i + 1, c] if i + 1 < P else projected[b, c]


@jit
def _context(  # pyright: ignore
    first, last, x, mean, count, horizon, context, new_mean, new_count
):
    for b in range(first, last):
        _read_context(b, x, mean, count, horizon, context, new_mean, new_count)


@jit
def _gate(  # pyright: ignore
    first, last, x, projected, weight, past, mean, count, context, values, new_past, new_mean, new_count
):
    D = x.shape[1]
    P = past.shape[1]
    for b in range(first, last):
        _read_context(b, x, mean, count, FOREVER, context, new_mean, new_count)
        for c in range(D):
            key = weight[c, P] * projected[b, c]
            value = weight[D + c, P] * projected[b, D + c]
            for i in range(P):
                key += weight[c, i] * past[b, i, c]
                value += weight[D + c, i] * past[b, i, D + c]
            values[b, c] = key * value
        _remember(b, projected, past, new_past)


@jit
def _mix(  # pyright: ignore
    first, last, values, filter_, decay, frequency, bias, readout, state, eps, mixed, new_state
):
    H = filter_.shape[1]
    F = filter_.shape[2]
    d = values.shape[2]
    zero = values.dtype.type(0)
    for h in range(H):
        for k in range(F):
            radius = np.exp(-decay[h, k])
            pole_r = radius * np.cos(frequency[h, k])
            pole_i = radius * np.sin(frequency[h, k])
            # g = sqrt(1 - |lambda|^2), without the loss of digits for slow decays.
            gain = np.sqrt(-np.expm1(-decay[h, k] - decay[h, k]))
            shift = bias[h, k]
            readout_r = readout[h, k, 0]
            readout_i = readout[h, k, 1]
            for b in range(first, last):
                f = filter_[b, h, k] * gain
                for c in range(d):
                    # Z = lambda Z + v
                    old_r = state[b, k, 0, h, c]
                    old_i = state[b, k, 1, h, c]
                    z_r = pole_r * old_r - pole_i * old_i + values[b, h, c]
                    z_i = pole_r * old_i + pole_i * old_r
                    new_state[b, k, 0, h, c] = z_r
                    new_state[b, k, 1, h, c] = z_i
                    # A = relu(|f Z| + bias) f Z / max(|f Z|, eps), then y = Re sum_k C_k A_k
                    magnitude = abs(f) * np.sqrt(z_r * z_r + z_i * z_i)
                    raised = magnitude + shift
                    raised = zero if raised <= zero else raised
                    scale = f * raised / (eps if magnitude <= eps else magnitude)
                    out = scale * (readout_r * z_r - readout_i * z_i)
                    mixed[b, h, c] = out if k == 0 else mixed[b, h, c] + out


@jit
def _inverse_size(x, at, bins):  # pyright: ignore
    """1 over the size of so many complex numbers from ``x[at]`` on, real and imaginary plane."""
    scalar = x.dtype.type
    total = scalar(0)
    for n in range(at, at + bins + bins):
        total += x[n] * x[n]
    return scalar(1) / np.sqrt(total / scalar(bins) + scalar(NORM_EPS))


@jit
def _shrink(z_r, z_i, bias, eps):  # pyright: ignore
    """modReLU of a complex number."""
    zero = eps - eps
    magnitude = np.sqrt(z_r * z_r + z_i * z_i)
    raised = magnitude + bias
    raised = zero if raised <= zero else raised
    scale = raised / (eps if magnitude <= eps else magnitude)
    return scale * z_r, scale * z_i


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
    C = projected.shape[1]
    D = gate.shape[1]
    P = past.shape[1]
    H = decay.shape[0]
    F = decay.shape[1]
    d = norm_weight.shape[1]
    scalar = projected.dtype.type
    one = scalar(1)
    convolved = np.empty(C, projected.dtype)
    for b in range(first, last):
        for c in range(C):
            total = weight[c, P] * projected[b, c]
            for i in range(P):
                total += weight[c, i] * past[b, i, c]
            convolved[c] = total
        for c in range(D):
            convolved[c] = convolved[c] / (one + np.exp(-convolved[c]))
        _remember(b, projected, past, new_past)
        for h in range(H):
            at = 2 * h * F
            key_scale = _inverse_size(convolved, D + at, F)
            filter_scale = _inverse_size(raw_filter[b], at, F)
            for c in range(h * d, (h + 1) * d):
                mixed[b, c] = scalar(0)
            for k in range(F):
                # g = sqrt(1 - |lambda|^2) at one token, without the loss of digits for slow decays.
                gain = np.sqrt(-np.expm1(-decay[h, k] - decay[h, k]))
                key_r = gain * (base_key[h, 0, k] + key_scale * convolved[D + at + k])
                key_i = gain * (base_key[h, 1, k] + key_scale * convolved[D + at + F + k])
                wanted_r = base_filter[h, 0, k] + np.tanh(modulation[b, h, 0, k])
                wanted_i = base_filter[h, 1, k] + np.tanh(modulation[b, h, 1, k])
                wanted_r += filter_scale * raw_filter[b, at + k]
                wanted_i += filter_scale * raw_filter[b, at + F + k]
                filter_r, filter_i = _shrink(wanted_r, wanted_i, bias[h, k], eps)
                radius = np.exp(-clock[b, h] * decay[h, k])
                pole_r = radius * np.cos(clock[b, h] * frequency[h, k])
                pole_i = radius * np.sin(clock[b, h] * frequency[h, k])
                for c in range(d):
                    # Z = exp(clock mu) Z + key v, then y = Re sum_k filter_k Z_k
                    value = convolved[h * d + c]
                    old_r = spectrum[b, h, 0, k, c]
                    old_i = spectrum[b, h, 1, k, c]
                    z_r = pole_r * old_r - pole_i * old_i + key_r * value
                    z_i = pole_r * old_i + pole_i * old_r + key_i * value
                    new_spectrum[b, h, 0, k, c] = z_r
                    new_spectrum[b, h, 1, k, c] = z_i
                    mixed[b, h * d + c] += filter_r * z_r - filter_i * z_i
            power = scalar(0)
            for c in range(h * d, (h + 1) * d):
                power += mixed[b, c] * mixed[b, c]
            scale = one / np.sqrt(power / scalar(d) + scalar(NORM_EPS))
            for c in range(d):
                opened = scale / (one + np.exp(-gate[b, h * d + c]))
                mixed[b, h * d + c] *= norm_weight[h, c] * opened


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x if x.is_contiguous() else x.contiguous() for x in tensors]


def gate_step(
    x: Tensor, projected: Tensor, conv_weight: Tensor, conv_state: Tensor, mean: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.gate_step``; all floating tensors have one dtype."""
    inputs = _contiguous(x, projected, conv_weight, conv_state, mean, count)
    outputs = (
        torch.empty_like(inputs[1]),
        torch.empty_like(inputs[0]),
        torch.empty_like(inputs[3]),
        torch.empty_like(inputs[4]),
        torch.empty_like(inputs[5]),
    )
    arrays = [t.numpy() for t in (*inputs, *outputs)]
    threads.run(_gate, x.shape[0], conv_state.numel() + x.numel(), *arrays)
    return outputs


def mix_step(
    values: Tensor, filter_: Tensor, parameters: HeadParameters, state: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.decode.mix_step``; all tensors have one dtype."""
    inputs = _contiguous(values, filter_, *parameters, state)
    mixed = torch.empty_like(inputs[0])
    new_state = torch.empty_like(inputs[6])
    arrays = [t.numpy() for t in inputs]
    bound = arrays[0].dtype.type(eps)
    threads.run(_mix, values.shape[0], state.numel(), *arrays, bound, mixed.numpy(), new_state.numpy())
    return mixed, new_state


def context_step(
    projected: Tensor, mean: Tensor, count: Tensor, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.context_step``; both floating tensors have one dtype."""
    projected, mean, count = _contiguous(projected, mean, count)
    context = projected.new_empty(projected.shape[0], 2 * projected.shape[1])
    outputs = (context, torch.empty_like(mean), torch.empty_like(count))
    arrays = [t.numpy() for t in (projected, mean, count)]
    results = [t.numpy() for t in outputs]
    threads.run(_context, projected.shape[0], projected.numel(), *arrays, horizon or FOREVER, *results)
    return outputs


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
    """See ``fftnet.ops.decode.address_step``; all tensors have one dtype."""
    inputs = _contiguous(projected, raw_filter, modulation, clock, gate, *parameters, conv_state, spectrum)
    outputs = (torch.empty_like(inputs[4]), torch.empty_like(inputs[12]), torch.empty_like(inputs[13]))
    arrays = [t.numpy() for t in inputs]
    results = [t.numpy() for t in outputs]
    bound = arrays[0].dtype.type(eps)
    threads.run(_address, projected.shape[0], spectrum.numel(), *arrays, bound, *results)
    return outputs
