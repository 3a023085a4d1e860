"""The CPU backend of keyed mixing: the recurrence as sums of outer products.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one head of one row of the batch. It walks over
time in blocks, and cuts a block into stretches in which no bin decays below ``e^-LIMIT``. Within a stretch
that begins at token a, with the time s(t) since then, the recurrence of docs/maths.md, section 3, is

    Z(t) = exp(s(t) mu) X(t),   X(t) = X(t-1) + (exp(-s(t) mu) key(t)) v(t)
    y(t) = Re sum_k (exp(s(t) mu) filter(t)) X(t)

So keys and filters are rotated and scaled once a token (``fftnet.ops.cpu.rotation``), and every channel needs
only ``fftnet.ops.cpu.outer.accumulate``: once in forward, three times in backward. There the gradient of the
values exchanges keys with filters and reverses time, and those of filters and keys exchange bins with
channels. Backward computes the spectrum once more from the checkpoint of a block.

A matrix of a head's spectrum has 2 F rows, the real parts of all bins and then the imaginary ones, of d
channels; "across" is its transpose.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty, padded
from fftnet.ops.cpu.outer import accumulate
from fftnet.ops.cpu.rotation import advance, rotate, rotate_back, stretch_end, transpose
from fftnet.ops.cpu.threads import threads

BLOCK = 64  # Tokens between two checkpoints of the state.


@jit
def _forward(first, last, lanes, bin_lanes, inputs, mixed, state, checkpoints):  # pyright: ignore
    values, _, _, clock, rate = inputs
    _, T, H, d = values.shape
    F = rate.shape[2]
    keys = np.empty((BLOCK, 2 * F), values.dtype)
    filters = np.empty((BLOCK, 2 * F), values.dtype)
    rotated = (keys, filters, np.empty((BLOCK, 4, F), values.dtype))
    factors = np.empty(2 * F, values.dtype)
    for item in range(first, last):
        b = item // H
        h = item % H
        spectrum = state[b, h].reshape(2 * F, d)
        fastest = rate[h, 0].max()
        for n in range(checkpoints.shape[1]):
            # Backward starts from here instead of keeping the spectrum of every token.
            checkpoints[b, n, h] = state[b, h]
            t0 = n * BLOCK
            end = min(t0 + BLOCK, T)
            mixed[b, t0:end, h] = 0
            t = t0
            while t < end:
                t1 = stretch_end(clock, b, h, t, end, fastest)
                time = rotate(inputs, rotated, b, h, t0, t, t1, bin_lanes)
                # From the end of the stretch before to the first token; then X is Z, since s = 0.
                advance(spectrum, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
                # X += key v^T, then y = X^T filter, at each token of the stretch.
                rows = slice(t - t0, t1 - t0)
                accumulate(spectrum, keys[rows], values[b, t:t1, h], filters[rows], mixed[b, t:t1, h], lanes)
                advance(spectrum, rate, h, time, 1, factors, lanes, bin_lanes)
                t = t1


@jit
def _backward(first, last, lanes, bin_lanes, across_lanes, inputs, saved, grads):  # pyright: ignore
    values, _, _, clock, rate = inputs
    checkpoints, grad_mixed, exponents = saved
    grad_values = grads[0]
    grad_state = grads[5]
    _, T, H, d = values.shape
    F = rate.shape[2]
    keys = np.empty((BLOCK, 2 * F), values.dtype)
    filters = np.empty((BLOCK, 2 * F), values.dtype)
    rotated = (keys, filters, np.empty((BLOCK, 4, F), values.dtype))
    grad_keys = np.empty((BLOCK, 2 * F), values.dtype)
    grad_filters = np.empty((BLOCK, 2 * F), values.dtype)
    factors = np.empty(2 * F, values.dtype)
    spectrum = np.empty((2 * F, d), values.dtype)
    across = np.empty((d, 2 * F), values.dtype)
    starts = np.empty(BLOCK + 1, np.int64)
    times = np.empty(BLOCK, values.dtype)
    for item in range(first, last):
        b = item // H
        h = item % H
        # The gradient of the state behind the tokens that are done.
        carry = grad_state[b, h].reshape(2 * F, d)
        fastest = rate[h, 0].max()
        for n in range(checkpoints.shape[1] - 1, -1, -1):
            t0 = n * BLOCK
            end = min(t0 + BLOCK, T)
            grad_keys[:] = 0
            grad_filters[:] = 0
            grad_values[b, t0:end, h] = 0

            # Forward in time: the spectrum once more, and the gradient of the filters, grad_y(t) X_k(t)
            # summed over the channels.
            spectrum[:] = checkpoints[b, n, h].reshape(2 * F, d)
            count = 0
            t = t0
            while t < end:
                t1 = stretch_end(clock, b, h, t, end, fastest)
                time = rotate(inputs, rotated, b, h, t0, t, t1, bin_lanes)
                advance(spectrum, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
                transpose(spectrum, across)
                rows = slice(t - t0, t1 - t0)
                v = values[b, t:t1, h]
                grad = grad_mixed[b, t:t1, h]
                accumulate(across, v, keys[rows], grad, grad_filters[rows], across_lanes)
                # The transpose holds the newest spectrum, which the next stretch continues from.
                if t1 < end:
                    transpose(across, spectrum)
                    advance(spectrum, rate, h, time, 1, factors, lanes, bin_lanes)
                starts[count] = t
                times[count] = time
                count += 1
                t = t1
            starts[count] = end

            # Backward in time: the gradients of keys and values read the carry as y reads the spectrum.
            for stretch in range(count - 1, -1, -1):
                t = starts[stretch]
                t1 = starts[stretch + 1]
                advance(carry, rate, h, times[stretch], -1, factors, lanes, bin_lanes)
                transpose(carry, across)
                rows = slice(t - t0, t1 - t0)
                v = values[b, t:t1, h][::-1]
                grad = grad_mixed[b, t:t1, h][::-1]
                read = filters[rows][::-1]
                # A read-out adds filter grad_y^T to the carry. Then the gradient of the key reads it with the
                # value, and that of the value with the key.
                accumulate(across, grad, read, v, grad_keys[rows][::-1], across_lanes)
                accumulate(carry, read, grad, keys[rows][::-1], grad_values[b, t:t1, h][::-1], lanes)
                advance(carry, rate, h, clock[b, t, h], -1, factors, lanes, bin_lanes)
                grad_rotated = (grad_keys, grad_filters)
                spans = (b, h, t0, t, t1, bin_lanes)
                rotate_back(inputs, rotated, grad_rotated, None, exponents[b, h], grads, *spans)


def _padded_inputs(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return values, key, filter, clock and rate (H, 2, F) in whole vectors; padded bins have zeros."""
    values, key, filter_, clock, decay, frequency = tensors
    rate = torch.stack([decay, frequency], dim=1)
    return padded(values), padded(key), padded(filter_), clock, padded(rate)


def _run(kernel: Any, inputs: tuple[Tensor, ...], *arguments: Any) -> None:
    values, key, *_ = inputs
    B, _, H, d = values.shape
    F = key.shape[4]
    threads.run(kernel, B * H, values.numel() * F, widest_lanes(d), widest_lanes(F), *arguments)


def forward(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    *streams, state = tensors
    bins, width = state.shape[3:]
    inputs = _padded_inputs(tuple(streams))
    final = padded(state, 2).clone()
    mixed = empty(inputs[0])
    blocks = -(-mixed.shape[1] // BLOCK)
    checkpoints = final.new_empty(final.shape[0], blocks, *final.shape[1:])
    _run(_forward, inputs, inputs, mixed, final, checkpoints)
    return mixed[..., :width], final[..., :bins, :width], checkpoints[..., :bins, :width]


def backward(*tensors: Tensor) -> tuple[Tensor, ...]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    *streams, checkpoints, last, grad_mixed, grad_state = tensors
    bins, width = grad_state.shape[3:]
    # The state is read after the last token: the gradient of its exponent is state times gradient.
    real, imag = last.unbind(dim=2)
    grad_real, grad_imag = grad_state.unbind(dim=2)
    exponent_re = (real * grad_real + imag * grad_imag).sum(dim=-1)
    exponent_im = (imag * grad_real - real * grad_imag).sum(dim=-1)
    exponents = torch.stack([exponent_re, exponent_im], dim=2)
    inputs = _padded_inputs(tuple(streams))
    values, key, filter_, clock, rate = inputs
    saved = (padded(checkpoints, 2), padded(grad_mixed), padded(exponents))
    # One sum a row of the batch, since rows are done by different threads.
    grad_rate = rate.new_zeros(values.shape[0], *rate.shape)
    grads = (empty(values), empty(key), empty(filter_), torch.empty_like(clock), grad_rate)
    grads = (*grads, padded(grad_state, 2).clone())
    across_lanes = widest_lanes(2 * key.shape[4])
    _run(_backward, inputs, across_lanes, inputs, saved, grads)
    grad_values, grad_key, grad_filter, grad_clock, grad_rate, grad_start = grads
    grad_decay, grad_frequency = grad_rate.sum(dim=0)[..., :bins].unbind(dim=1)
    grad_streams = (grad_values[..., :width], grad_key[..., :bins], grad_filter[..., :bins], grad_clock)
    return *grad_streams, grad_decay.clone(), grad_frequency.clone(), grad_start[..., :bins, :width]
