"""The CPU backend of keyed mixing: the recurrence as sums of outer products.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one head of one row of the batch. It walks over
time in blocks, and cuts a block into stretches in which no bin decays below ``e^-LIMIT``. Within a stretch
that begins at token a, with the time s(t) since then, the recurrence has no powers left in

    Z(t) = exp(s(t) mu) X(t),   X(t) = X(t-1) + (exp(-s(t) mu) key(t)) v(t)
    y(t) = Re sum_k (exp(s(t) mu) filter(t)) X(t)

so that keys and filters are turned and scaled once a token (``_turn``), and what is left for every channel
is ``fftnet.ops.cpu.outer.accumulate``, in forward once and in backward three times: with the roles of keys
and filters exchanged and time reversed for the values' gradient; with those of bins and channels exchanged
for the gradients of filters and keys. Backward computes the spectrum once more from the block's checkpoint.

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
from fftnet.ops.cpu.functions import cos_sin, exp
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.outer import accumulate
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, store, sum_lanes

BLOCK = 64
"""Tokens between two checkpoints of the state."""
LIMIT = 30.0
"""Keys grow by at most e^LIMIT within a stretch, far from the largest float32."""


@jit
def _stretch_end(clock, b, h, t, end, fastest):  # pyright: ignore
    """One past the last token of the stretch that begins at token t."""
    time = clock.dtype.type(0)
    t += 1
    while t < end:
        time += clock[b, t, h]
        if not time * fastest <= LIMIT:
            break
        t += 1
    return t


@jit
def _turn(key, filter_, clock, rate, b, h, first, last, t0, keys, filters, turns, lanes):  # pyright: ignore
    """Keys and filters of a stretch, scaled and turned; returns the time from its first to its last token.

    Token t has row ``t - t0`` in ``keys`` and ``filters`` (2 F numbers) and in ``turns`` (4 F: how much X is
    decayed, one over it, cosine and sine of the angle).
    """
    T, H, _, F = key.shape[1:]
    time = clock.dtype.type(0)
    for t in range(first, last):
        if t > first:
            time += clock[b, t, h]
        for k in range(0, F, len(lanes)):
            decay = load(rate, h * 2 * F + k, lanes)
            cosine, sine = cos_sin(time * load(rate, (h * 2 + 1) * F + k, lanes))
            fallen = exp(0 - time * decay)
            risen = exp(time * decay)
            source = ((b * T + t) * H + h) * 2 * F + k
            target = (t - t0) * 2 * F + k
            key_r = load(key, source, lanes)
            key_i = load(key, source + F, lanes)
            store(keys, target, risen * (key_r * cosine + key_i * sine))
            store(keys, target + F, risen * (key_i * cosine - key_r * sine))
            filter_r = load(filter_, source, lanes)
            filter_i = load(filter_, source + F, lanes)
            store(filters, target, fallen * (filter_r * cosine - filter_i * sine))
            store(filters, target + F, 0 - fallen * (filter_r * sine + filter_i * cosine))
            store(turns, (t - t0) * 4 * F + k, fallen)
            store(turns, (t - t0) * 4 * F + F + k, risen)
            store(turns, (t - t0) * 4 * F + 2 * F + k, cosine)
            store(turns, (t - t0) * 4 * F + 3 * F + k, sine)
    return time


@jit
def _pass_time(matrix, rate, h, time, direction, factors, lanes, bin_lanes):  # pyright: ignore
    """Multiply a head's matrix by ``exp(time mu)``, or by its conjugate where direction is -1."""
    F = rate.shape[2]
    d = matrix.shape[1]
    for k in range(0, F, len(bin_lanes)):
        cosine, sine = cos_sin(time * load(rate, (h * 2 + 1) * F + k, bin_lanes))
        fallen = exp(0 - time * load(rate, h * 2 * F + k, bin_lanes))
        store(factors, k, fallen * cosine)
        store(factors, F + k, fallen * sine * direction)
    for k in range(F):
        cosine = factors[k]
        sine = factors[F + k]
        for c in range(0, d, len(lanes)):
            x_r = load(matrix, k * d + c, lanes)
            x_i = load(matrix, (F + k) * d + c, lanes)
            store(matrix, k * d + c, cosine * x_r - sine * x_i)
            store(matrix, (F + k) * d + c, sine * x_r + cosine * x_i)


@jit
def _transpose(source, target):  # pyright: ignore
    rows, columns = source.shape
    for r in range(rows):
        for c in range(columns):
            target[c, r] = source[r, c]


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
                t1 = _stretch_end(clock, b, h, t, end, fastest)
                time = _turn(key, filter_, clock, rate, b, h, t, t1, t0, keys, filters, turns, bin_lanes)
                _pass_time(matrix, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
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
                _pass_time(matrix, rate, h, time, 1, factors, lanes, bin_lanes)
                t = t1


@jit
def _collect(  # pyright: ignore
    b,
    h,
    first,
    last,
    t0,
    clock,
    rate,
    keys,
    filters,
    turns,
    grad_keys,
    grad_filters,
    exponent,
    lanes,
    grad_key,
    grad_filter,
    grad_clock,
    grad_rate,
):
    """Gradients of keys, filters, clock and rates of a stretch from those of what ``_turn`` made of them.

    A reading at t moves with ``exp(S(t) mu)``, a writing with ``exp(-S(t) mu)``, where S(t) is the clock's
    sum up to t: so the gradient of ``S(t) mu`` is filter times its gradient minus key times its gradient, and
    that of ``clock(t) mu`` the sum over all t' >= t (``exponent``), begun with state times its gradient.
    """
    T, H, _, F = grad_key.shape[1:]
    for t in range(last - 1, first - 1, -1):
        row = (t - t0) * 2 * F
        turn = (t - t0) * 4 * F
        time = clock[b, t, h]
        total = time * 0
        for k in range(0, F, len(lanes)):
            grad_r = load(grad_filters, row + k, lanes)
            grad_i = load(grad_filters, row + F + k, lanes)
            read_r = load(filters, row + k, lanes)
            read_i = load(filters, row + F + k, lanes)
            back_r = load(grad_keys, row + k, lanes)
            back_i = load(grad_keys, row + F + k, lanes)
            key_r = load(keys, row + k, lanes)
            key_i = load(keys, row + F + k, lanes)
            fallen = load(turns, turn + k, lanes)
            risen = load(turns, turn + F + k, lanes)
            cosine = load(turns, turn + 2 * F + k, lanes)
            sine = load(turns, turn + 3 * F + k, lanes)
            sum_r = load(exponent, k, lanes) + read_r * grad_r + read_i * grad_i
            sum_r = sum_r - key_r * back_r - key_i * back_i
            sum_i = load(exponent, F + k, lanes) + read_r * grad_i - read_i * grad_r
            sum_i = sum_i - key_i * back_r + key_r * back_i
            store(exponent, k, sum_r)
            store(exponent, F + k, sum_i)
            decay_at = (b * H + h) * 2 * F + k
            store(grad_rate, decay_at, load(grad_rate, decay_at, lanes) - time * sum_r)
            store(grad_rate, decay_at + F, load(grad_rate, decay_at + F, lanes) - time * sum_i)
            slope = sum_r * load(rate, h * 2 * F + k, lanes) + sum_i * load(rate, (h * 2 + 1) * F + k, lanes)
            total -= sum_lanes(slope)
            target = ((b * T + t) * H + h) * 2 * F + k
            store(grad_filter, target, fallen * (cosine * grad_r - sine * grad_i))
            store(grad_filter, target + F, 0 - fallen * (sine * grad_r + cosine * grad_i))
            store(grad_key, target, risen * (cosine * back_r - sine * back_i))
            store(grad_key, target + F, risen * (sine * back_r + cosine * back_i))
        grad_clock[b, t, h] = total


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
                t1 = _stretch_end(clock, b, h, t, end, fastest)
                times[count] = _turn(
                    key, filter_, clock, rate, b, h, t, t1, t0, keys, filters, turns, bin_lanes
                )
                _pass_time(spectrum, rate, h, clock[b, t, h], 1, factors, lanes, bin_lanes)
                _transpose(spectrum, across)
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
                    _transpose(across, spectrum)
                    _pass_time(spectrum, rate, h, times[count], 1, factors, lanes, bin_lanes)
                starts[count] = t
                count += 1
                t = t1
            starts[count] = end

            for stretch in range(count - 1, -1, -1):
                t = starts[stretch]
                t1 = starts[stretch + 1]
                _pass_time(carry, rate, h, times[stretch], -1, factors, lanes, bin_lanes)
                _transpose(carry, across)
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
                _pass_time(carry, rate, h, clock[b, t, h], -1, factors, lanes, bin_lanes)
                _collect(
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


def _pad(x: Tensor) -> Tensor:
    """Zeros up to whole vectors: such channels and bins stay zero and add nothing to any gradient."""
    missing = -x.shape[-1] % VECTOR_WIDTH
    return functional.pad(x, (0, missing)) if missing else x


def _pad_state(state: Tensor) -> Tensor:
    missing = (-state.shape[-1] % VECTOR_WIDTH, -state.shape[-2] % VECTOR_WIDTH)
    return functional.pad(state, (0, missing[0], 0, missing[1])) if any(missing) else state


def _rate(decay: Tensor, frequency: Tensor) -> Tensor:
    return _pad(torch.stack([decay, frequency], dim=1))


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
    inputs = (_pad(values), _pad(key), _pad(filter_), clock, _rate(decay, frequency))
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
    inputs = (_pad(values), _pad(key), _pad(filter_), clock, _rate(decay, frequency))
    saved = (_pad_state(checkpoints), _pad(grad_mixed), _pad(exponents))
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
