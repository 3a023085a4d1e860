"""The CPU backend of keyed mixing: the recurrence as sums of outer products.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one head of one row of the batch. It walks over
time in blocks, and cuts a block into stretches in which no bin decays below ``e^-LIMIT``. Within a stretch
that begins at token a, with the time s(t) since then, the recurrence has no powers left in

    Z(t) = exp(s(t) mu) X(t),   X(t) = X(t-1) + (exp(-s(t) mu) key(t)) v(t)
    y(t) = Re sum_k (exp(s(t) mu) filter(t)) X(t)

so that keys and filters are turned and scaled once a token (``fftnet.ops.cpu.turns``), and what is left for
every channel is ``fftnet.ops.cpu.outer.accumulate``, in forward once and in backward three times: with the
roles of keys and filters exchanged and time reversed for the values' gradient; with those of bins and
channels exchanged for the gradients of filters and keys. Backward computes the spectrum once more from the
block's checkpoint.

A matrix of a head's spectrum has 2 F rows, the real parts of all bins and then the imaginary ones, of d
channels; "across" is its transpose. Filters are kept as (real, -imaginary): a read-out is a plain sum.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty, padded
from fftnet.ops.cpu.outer import accumulate
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.turns import collect, pass_time, stretch_end, transpose, turn

BLOCK = 64
"""Tokens between two checkpoints of the state."""


@jit
def _forward(  # pyright: ignore
    first, last, lanes, bin_lanes, values, key, filter_, clock, rate, mixed, state, checkpoints
):
    _, T, H, d = values.shape
    F = key.shape[4]
    N = checkpoints.shape[1]
    dtype = values.dtype
    keys = np.empty((BLOCK, 2 * F), dtype)
    filters = np.empty((BLOCK, 2 * F), dtype)
    turns = np.empty((BLOCK, 4 * F), dtype)
    factors = np.empty(2 * F, dtype)
    for item in range(first, last):
        b = item // H
        h = item % H
        matrix = state[b, h].reshape(2 * F, d)
        fastest = rate[h, 0].max()
        for n in range(N):
            checkpoints[b, n, h] = state[b, h]
            t0 = n * BLOCK
            end = min(t0 + BLOCK, T)
            mixed[b, t0:end, h] = 0
            t = t0
            while t < end:
                t1 = stretch_end(clock, b, h, t, end, fastest)
                time = turn(key, filter_, clock, rate, b, h, t, t1, t0, keys, filters, turns, bin_lanes)
                pass_time(matrix, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
                row = (t - t0) * 2 * F
                here = ((b * T + t) * H + h) * d
                accumulate(
                    (matrix, 0, d),
                    (keys, row, 2 * F),
                    (values, here, H * d),
                    (filters, row, 2 * F),
                    (mixed, here, H * d),
                    t1 - t,
                    2 * F,
                    d,
                    lanes,
                )
                pass_time(matrix, rate, h, time, 1, factors, lanes, bin_lanes)
                t = t1


@jit
def _backward(  # pyright: ignore
    first,
    last,
    lanes,
    bin_lanes,
    across_lanes,
    values,
    key,
    filter_,
    clock,
    rate,
    checkpoints,
    grad_mixed,
    exponents,
    grad_values,
    grad_key,
    grad_filter,
    grad_clock,
    grad_rate,
    grad_state,
):
    _, T, H, d = values.shape
    F = key.shape[4]
    N = checkpoints.shape[1]
    dtype = values.dtype
    keys = np.empty((BLOCK, 2 * F), dtype)
    filters = np.empty((BLOCK, 2 * F), dtype)
    grad_keys = np.empty((BLOCK, 2 * F), dtype)
    grad_filters = np.empty((BLOCK, 2 * F), dtype)
    turns = np.empty((BLOCK, 4 * F), dtype)
    factors = np.empty(2 * F, dtype)
    spectrum = np.empty((2 * F, d), dtype)
    across = np.empty((d, 2 * F), dtype)
    starts = np.empty(BLOCK + 1, np.int64)
    times = np.empty(BLOCK, dtype)
    D = H * d
    for item in range(first, last):
        b = item // H
        h = item % H
        carry = grad_state[b, h].reshape(2 * F, d)
        exponent = exponents[b, h].reshape(2 * F)
        fastest = rate[h, 0].max()
        for n in range(N - 1, -1, -1):
            t0 = n * BLOCK
            end = min(t0 + BLOCK, T)
            grad_keys[:] = 0
            grad_filters[:] = 0
            grad_values[b, t0:end, h] = 0

            # The spectrum once more, and with it the gradients of the filters.
            spectrum[:] = checkpoints[b, n, h].reshape(2 * F, d)
            count = 0
            t = t0
            while t < end:
                t1 = stretch_end(clock, b, h, t, end, fastest)
                times[count] = turn(
                    key, filter_, clock, rate, b, h, t, t1, t0, keys, filters, turns, bin_lanes
                )
                pass_time(spectrum, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
                transpose(spectrum, across)
                row = (t - t0) * 2 * F
                here = ((b * T + t) * H + h) * d
                accumulate(
                    (across, 0, 2 * F),
                    (values, here, D),
                    (keys, row, 2 * F),
                    (grad_mixed, here, D),
                    (grad_filters, row, 2 * F),
                    t1 - t,
                    d,
                    2 * F,
                    across_lanes,
                )
                if t1 < end:
                    transpose(across, spectrum)
                    pass_time(spectrum, rate, h, times[count], 1, factors, lanes, bin_lanes)
                starts[count] = t
                count += 1
                t = t1
            starts[count] = end

            for stretch in range(count - 1, -1, -1):
                t = starts[stretch]
                t1 = starts[stretch + 1]
                pass_time(carry, rate, h, times[stretch], -1, factors, lanes, bin_lanes)
                transpose(carry, across)
                row = (t1 - 1 - t0) * 2 * F
                here = ((b * T + t1 - 1) * H + h) * d
                accumulate(
                    (across, 0, 2 * F),
                    (grad_mixed, here, -D),
                    (filters, row, -2 * F),
                    (values, here, -D),
                    (grad_keys, row, -2 * F),
                    t1 - t,
                    d,
                    2 * F,
                    across_lanes,
                )
                accumulate(
                    (carry, 0, d),
                    (filters, row, -2 * F),
                    (grad_mixed, here, -D),
                    (keys, row, -2 * F),
                    (grad_values, here, -D),
                    t1 - t,
                    2 * F,
                    d,
                    lanes,
                )
                pass_time(carry, rate, h, clock[b, t, h], -1, factors, lanes, bin_lanes)
                collect(
                    b,
                    h,
                    t,
                    t1,
                    t0,
                    clock,
                    rate,
                    keys,
                    filters,
                    turns,
                    grad_keys,
                    grad_filters,
                    exponent,
                    bin_lanes,
                    grad_key,
                    grad_filter,
                    grad_clock,
                    grad_rate,
                )


def _pad_state(state: Tensor) -> Tensor:
    missing = (-state.shape[-1] % VECTOR_WIDTH, -state.shape[-2] % VECTOR_WIDTH)
    return functional.pad(state, (0, missing[0], 0, missing[1])) if any(missing) else state


def _rate(decay: Tensor, frequency: Tensor) -> Tensor:
    return padded(torch.stack([decay, frequency], dim=1))


def _run(kernel: Any, values: Tensor, key: Tensor, *arguments: Any) -> None:
    B, _, H, _ = values.shape
    threads.run(kernel, B * H, values.numel() * key.shape[4], widest_lanes(values.shape[3]), *arguments)


def forward(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix`` for the contract of a backend."""
    bins, width = state.shape[3:]
    inputs = (padded(values), padded(key), padded(filter_), clock, _rate(decay, frequency))
    final = _pad_state(state).clone()
    mixed = empty(inputs[0])
    blocks = -(-values.shape[1] // BLOCK)
    checkpoints = final.new_empty(final.shape[0], blocks, *final.shape[1:])
    arrays = [x.numpy() for x in (*inputs, mixed, final, checkpoints)]
    _run(_forward, *inputs[:2], widest_lanes(final.shape[3]), *arrays)
    mixed = mixed[..., :width].contiguous()
    final, checkpoints = (x[..., :bins, :width].contiguous() for x in (final, checkpoints))
    return mixed, final, checkpoints


def backward(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    checkpoints: Tensor,
    last: Tensor,
    grad_mixed: Tensor,
    grad_state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix`` for the contract of a backend."""
    bins, width = grad_state.shape[3:]
    real, imag = last.unbind(dim=2)
    grad_real, grad_imag = grad_state.unbind(dim=2)
    exponents = torch.stack(
        [
            (real * grad_real + imag * grad_imag).sum(dim=-1),
            (imag * grad_real - real * grad_imag).sum(dim=-1),
        ],
        dim=2,
    )
    inputs = (padded(values), padded(key), padded(filter_), clock, _rate(decay, frequency))
    saved = (_pad_state(checkpoints), padded(grad_mixed), padded(exponents))
    grad_values = empty(inputs[0])
    grad_key = empty(inputs[1])
    grad_filter = empty(inputs[2])
    grad_clock = torch.empty_like(clock)
    # One sum a row of the batch, since rows are done by different threads.
    grad_rate = inputs[4].new_zeros(values.shape[0], *inputs[4].shape)
    grad_start = _pad_state(grad_state).clone()
    outputs = (grad_values, grad_key, grad_filter, grad_clock, grad_rate, grad_start)
    arrays = [x.numpy() for x in (*inputs, *saved, *outputs)]
    wide = (widest_lanes(grad_start.shape[3]), widest_lanes(2 * grad_start.shape[3]))
    _run(_backward, *inputs[:2], *wide, *arrays)
    grad_decay, grad_frequency = grad_rate.sum(dim=0)[..., :bins].unbind(dim=1)
    return (
        grad_values[..., :width].contiguous(),
        grad_key[..., :bins].contiguous(),
        grad_filter[..., :bins].contiguous(),
        grad_clock,
        grad_decay.clone(),
        grad_frequency.clone(),
        grad_start[..., :bins, :width].contiguous(),
    )
