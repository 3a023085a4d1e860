"""Keys and filters of a recurrence, turned and scaled so that no powers are left in it.

For ``fftnet.ops.keyed_mix``, whose numba backend says what a stretch is. See ``fftnet.ops.cpu`` for how to
read kernels. ``rate`` is (H, 2, F): decay and frequency of every bin, mu = -decay + i frequency.
"""

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import cos_sin, exp
from fftnet.ops.cpu.vector import load, store, sum_lanes

LIMIT = 30.0
"""Keys grow by at most e^LIMIT within a stretch, far from the largest float32."""


@jit
def stretch_end(clock, b, h, t, end, fastest):  # pyright: ignore
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
def turn(key, filter_, clock, rate, b, h, first, last, t0, keys, filters, turns, lanes):  # pyright: ignore
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
def pass_time(matrix, rate, h, time, direction, factors, lanes, bin_lanes):  # pyright: ignore
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
def transpose(source, target):  # pyright: ignore
    """Rows of one matrix to columns of the other."""
    rows, columns = source.shape
    for r in range(rows):
        for c in range(columns):
            target[c, r] = source[r, c]


@jit
def collect(  # pyright: ignore
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
    """Gradients of keys, filters, clock and rates of a stretch from those of what ``turn`` made of them.

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
