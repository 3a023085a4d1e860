"""The CPU backend of delta mixing: the recurrence of ``fftnet.ops.keyed_mix.cpu`` with an erasing read.

See there for blocks, stretches and the rotated keys and filters. In the spectrum X of a stretch the delta
rule reads with ``erase(t) = key(t) exp(-2 s(t) a)``: the rotated key, decayed instead of grown.

Backward needs what each token has written, u, which forward keeps. With G, the gradient of X after a token:

    G += filter grad_y^T;   grad_v = G^T key;   G -= b erase grad_v^T
    grad_key = G u;   grad_filter = X(t) grad_y
    grad_erase = -b X(t-1) grad_v;   grad_b = -erase^T X(t-1) grad_v

The first line is sequential. The others are sums of outer products, hence ``accumulate``.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.delta import delta, delta_adjoint
from fftnet.ops.cpu.memory import empty, padded
from fftnet.ops.cpu.outer import accumulate
from fftnet.ops.cpu.rotation import advance, rotate, rotate_back, stretch_end, transpose
from fftnet.ops.cpu.threads import threads

BLOCK = 64  # Tokens between two checkpoints of the state.


@jit
def _fade(rotated, erase, t0, first, last):  # pyright: ignore
    """Set the reading vectors of a stretch: rotated keys times ``exp(-2 s a)``."""
    keys, _, factors = rotated
    F = factors.shape[2]
    for row in range(first - t0, last - t0):
        for k in range(F):
            faded = factors[row, 0, k] * factors[row, 0, k]
            erase[row, k] = keys[row, k] * faded
            erase[row, F + k] = keys[row, F + k] * faded


@jit
def _forward(  # pyright: ignore
    first, last, lanes, bin_lanes, rows, inputs, strength, mixed, written, state, checkpoints
):
    values, _, _, clock, rate = inputs
    _, T, H, d = values.shape
    F = rate.shape[2]
    keys = np.empty((BLOCK, 2 * F), values.dtype)
    filters = np.empty((BLOCK, 2 * F), values.dtype)
    erase = np.empty((BLOCK, 2 * F), values.dtype)
    rotated = (keys, filters, np.empty((BLOCK, 4, F), values.dtype))
    factors = np.empty(2 * F, values.dtype)
    for item in range(first, last):
        b = item // H
        h = item % H
        spectrum = state[b, h].reshape(2 * F, d)
        fastest = rate[h, 0].max()
        for n in range(checkpoints.shape[1]):
            checkpoints[b, n, h] = state[b, h]
            t0 = n * BLOCK
            end = min(t0 + BLOCK, T)
            t = t0
            while t < end:
                t1 = stretch_end(clock, b, h, t, end, fastest)
                time = rotate(inputs, rotated, b, h, t0, t, t1, bin_lanes)
                _fade(rotated, erase, t0, t, t1)
                advance(spectrum, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
                at = slice(t - t0, t1 - t0)
                v = values[b, t:t1, h]
                delta(
                    spectrum, keys[at], erase[at], strength[b, t:t1, h], v, filters[at],
                    mixed[b, t:t1, h], written[b, t:t1, h], rows, lanes,
                )  # fmt: skip
                advance(spectrum, rate, h, time, 1, factors, lanes, bin_lanes)
                t = t1


@jit
def _read_again(  # pyright: ignore
    b, h, span, lanes, across_lanes, inputs, saved, rotated, grad_filters, work
):
    """Walk a block forward in time: the spectrum once more, and the gradient of the filters.

    Fill ``starts``, ``times`` and the transposed spectra ``begins`` of the stretches; return their number.
    """
    written, _, _, clock, rate = inputs
    _, _, grad_mixed, _ = saved
    spectrum, across, begins, starts, times, factors = work
    t0, end, fastest, bin_lanes = span
    count = 0
    t = t0
    while t < end:
        t1 = stretch_end(clock, b, h, t, end, fastest)
        time = rotate(inputs, rotated, b, h, t0, t, t1, bin_lanes)
        advance(spectrum, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
        transpose(spectrum, across)
        begins[count] = across
        at = slice(t - t0, t1 - t0)
        grad = grad_mixed[b, t:t1, h]
        accumulate(across, written[b, t:t1, h], rotated[0][at], grad, grad_filters[at], across_lanes)
        if t1 < end:
            transpose(across, spectrum)
            advance(spectrum, rate, h, time, 1, factors, lanes, bin_lanes)
        starts[count] = t
        times[count] = time
        count += 1
        t = t1
    starts[count] = end
    return count


@jit
def _write_back(  # pyright: ignore
    b, h, t, t1, t0, rows, lanes, across_lanes, carry, begin, across, buffers, rotated, inputs, saved, grads
):
    """Walk a stretch backward in time: the gradients of values, keys, reading vectors and b."""
    written = inputs[0]
    strength, _, grad_mixed, _ = saved
    keys, filters, _ = rotated
    erase, negative, grad_keys, grad_erase, keys_before, written_before = buffers
    at = slice(t - t0, t1 - t0)
    later = slice(t - t0 + 1, t1 - t0)
    earlier = slice(t - t0, t1 - t0 - 1)
    for row in range(t - t0, t1 - t0):
        negative[row] = -strength[b, t0 + row, h] * erase[row]
    transpose(carry, across)
    u = written[b, t:t1, h]
    grad = grad_mixed[b, t:t1, h]
    slope = grads[0][b, t:t1, h]
    backward = (filters[at][::-1], grad[::-1], keys[at][::-1], negative[at][::-1], slope[::-1])
    delta_adjoint(carry, *backward, rows, lanes)
    # The gradient of a key reads both sums of G: that of its read-outs, and that of later erasing.
    accumulate(across, grad[::-1], filters[at][::-1], u[::-1], grad_keys[at][::-1], across_lanes)
    across[:] = 0
    erased = (slope[1:][::-1], negative[later][::-1], u[:-1][::-1], grad_keys[earlier][::-1])
    accumulate(across, *erased, across_lanes)
    # X(t - 1) grad_v, of which the gradients of the reading vector and of b are made. The token before the
    # first writes nothing.
    length = t1 - t
    keys_before[1 : length + 1] = keys[at]
    written_before[1 : length + 1] = u
    before = (written_before[:length], keys_before[:length])
    accumulate(begin, *before, slope, grad_erase[at], across_lanes)
    for row in range(t - t0, t1 - t0):
        grads[6][b, t0 + row, h] = -(erase[row] * grad_erase[row]).sum()
        grad_erase[row] *= -strength[b, t0 + row, h]


@jit
def _backward(first, last, lanes, bin_lanes, rows, across_lanes, inputs, saved, grads):  # pyright: ignore
    written, _, _, clock, rate = inputs
    _, checkpoints, _, exponents = saved
    _, T, H, d = written.shape
    F = rate.shape[2]
    R = 2 * F
    dtype = written.dtype
    rotated = (np.empty((BLOCK, R), dtype), np.empty((BLOCK, R), dtype), np.empty((BLOCK, 4, F), dtype))
    erase = np.empty((BLOCK, R), dtype)
    grad_keys = np.empty((BLOCK, R), dtype)
    grad_filters = np.empty((BLOCK, R), dtype)
    grad_erase = np.empty((BLOCK, R), dtype)
    # The first row stays zero.
    before = (np.zeros((BLOCK + 1, R), dtype), np.zeros((BLOCK + 1, d), dtype))
    buffers = (erase, np.empty((BLOCK, R), dtype), grad_keys, grad_erase, *before)
    factors = np.empty(R, dtype)
    spectrum = np.empty((R, d), dtype)
    across = np.empty((d, R), dtype)
    begins = np.empty((BLOCK, d, R), dtype)
    starts = np.empty(BLOCK + 1, np.int64)
    times = np.empty(BLOCK, dtype)
    work = (spectrum, across, begins, starts, times, factors)
    for item in range(first, last):
        b = item // H
        h = item % H
        # The gradient of the state behind the tokens that are done.
        carry = grads[5][b, h].reshape(R, d)
        fastest = rate[h, 0].max()
        for n in range(checkpoints.shape[1] - 1, -1, -1):
            t0 = n * BLOCK
            span = (t0, min(t0 + BLOCK, T), fastest, bin_lanes)
            grad_keys[:] = 0
            grad_filters[:] = 0
            grad_erase[:] = 0
            spectrum[:] = checkpoints[b, n, h].reshape(R, d)
            count = _read_again(b, h, span, lanes, across_lanes, inputs, saved, rotated, grad_filters, work)
            for stretch in range(count - 1, -1, -1):
                t = starts[stretch]
                t1 = starts[stretch + 1]
                _fade(rotated, erase, t0, t, t1)
                advance(carry, rate, h, times[stretch], -1, factors, lanes, bin_lanes)
                _write_back(
                    b, h, t, t1, t0, rows, lanes, across_lanes,
                    carry, begins[stretch], across, buffers, rotated, inputs, saved, grads,
                )  # fmt: skip
                advance(carry, rate, h, clock[b, t, h], -1, factors, lanes, bin_lanes)
                grad_rotated = (grad_keys, grad_filters)
                spans = (b, h, t0, t, t1, bin_lanes)
                rotate_back(inputs, rotated, grad_rotated, grad_erase, exponents[b, h], grads[:6], *spans)


def _padded_inputs(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return values, key, filter, clock and rate (H, 2, F) in whole vectors; padded bins have zeros."""
    values, key, filter_, clock, decay, frequency = tensors
    rate = torch.stack([decay, frequency], dim=1)
    return padded(values), padded(key), padded(filter_), clock, padded(rate)


def _run(kernel: Any, inputs: tuple[Tensor, ...], *arguments: Any) -> None:
    values, key, *_ = inputs
    B, _, H, d = values.shape
    F = key.shape[4]
    lanes = widest_lanes(d)
    # Two registers a row leave too few for the rest.
    lanes = lanes[: min(len(lanes), 16)]
    threads.run(kernel, B * H, values.numel() * F, lanes, widest_lanes(F), (0,) * 2 * F, *arguments)


def forward(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    values, key, filter_, erase, *rest, state = tensors
    bins, width = state.shape[3:]
    inputs = _padded_inputs((values, key, filter_, *rest))
    final = padded(state, 2).clone()
    mixed = empty(inputs[0])
    written = empty(inputs[0])
    blocks = -(-mixed.shape[1] // BLOCK)
    checkpoints = final.new_empty(final.shape[0], blocks, *final.shape[1:])
    _run(_forward, inputs, inputs, erase, mixed, written, final, checkpoints)
    kept = checkpoints[..., :bins, :width]
    return mixed[..., :width], final[..., :bins, :width], written[..., :width], kept


def backward(*tensors: Tensor) -> tuple[Tensor, ...]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    written, key, filter_, erase, *rates, checkpoints, last, grad_mixed, grad_state = tensors
    bins, width = grad_state.shape[3:]
    # The state is read after the last token: the gradient of its exponent is state times gradient.
    real, imag = last.unbind(dim=2)
    grad_real, grad_imag = grad_state.unbind(dim=2)
    exponent_re = (real * grad_real + imag * grad_imag).sum(dim=-1)
    exponent_im = (imag * grad_real - real * grad_imag).sum(dim=-1)
    exponents = torch.stack([exponent_re, exponent_im], dim=2)
    inputs = _padded_inputs((written, key, filter_, *rates))
    written, key, filter_, clock, rate = inputs
    saved = (erase, padded(checkpoints, 2), padded(grad_mixed), padded(exponents))
    # One sum a row of the batch, since rows are done by different threads.
    grad_rate = rate.new_zeros(written.shape[0], *rate.shape)
    grads = (empty(written), empty(key), empty(filter_), torch.empty_like(clock), grad_rate)
    grads = (*grads, padded(grad_state, 2).clone(), torch.empty_like(erase))
    across_lanes = widest_lanes(2 * key.shape[4])
    _run(_backward, inputs, across_lanes, inputs, saved, grads)
    grad_values, grad_key, grad_filter, grad_clock, grad_rate, grad_start, grad_erase = grads
    grad_decay, grad_frequency = grad_rate.sum(dim=0)[..., :bins].unbind(dim=1)
    grad_streams = (grad_values[..., :width], grad_key[..., :bins], grad_filter[..., :bins], grad_erase)
    grad_rates = (grad_clock, grad_decay.clone(), grad_frequency.clone())
    return *grad_streams, *grad_rates, grad_start[..., :bins, :width]
