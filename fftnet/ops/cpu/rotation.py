"""Rotation and scaling that take the powers of ``exp(mu)`` out of the recurrence of ``fftnet.ops.keyed_mix``.

See ``fftnet.ops.cpu`` for how to read kernels, and the CPU backend of keyed mixing for what a stretch is.
``inputs`` are values, key, filter, clock and ``rate`` (H, 2, F): decay and frequency of every bin,
mu = -decay + i frequency. ``rotated`` are arrays for a block that begins at token t0, with a row a token:

* keys ``exp(-s mu) key`` and filters ``exp(s mu) filter``, (BLOCK, 2 F): F real parts, then F imaginary ones;
* factors (BLOCK, 4, F): decay ``exp(-s a)``, growth ``exp(s a)``, cosine and sine of the angle ``s w``.
"""

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import cos_sin, exp
from fftnet.ops.cpu.vector import load, store, sum_lanes

LIMIT = 30.0  # Largest exponent by which keys grow within a stretch, far from the largest float32.


@jit
def stretch_end(clock, b, h, t, end, fastest):  # pyright: ignore
    """Return one past the last token of the stretch that begins at t; ``fastest`` is the largest decay."""
    time = clock.dtype.type(0)
    t += 1
    while t < end:
        time += clock[b, t, h]
        # Written so that a clock of NaN ends the stretch.
        if not time * fastest <= LIMIT:
            break
        t += 1
    return t


@jit
def rotate(inputs, rotated, b, h, t0, first, last, lanes):  # pyright: ignore
    """Rotate and scale keys and filters of a stretch; return the time s from its first to its last token."""
    _, key, filter_, clock, rate = inputs
    keys, filters, factors = rotated
    F = rate.shape[2]
    time = clock.dtype.type(0)
    for t in range(first, last):
        if t > first:
            time += clock[b, t, h]
        row = t - t0
        for k in range(0, F, len(lanes)):
            # exp(-s mu) = growth (cosine - i sine), which turns and scales the key: section 3, step 3.
            cosine, sine = cos_sin(time * load(rate, (h, 1, k), lanes))
            decay = exp(0 - time * load(rate, (h, 0, k), lanes))
            growth = exp(time * load(rate, (h, 0, k), lanes))
            re = load(key, (b, t, h, 0, k), lanes)
            im = load(key, (b, t, h, 1, k), lanes)
            store(keys, (row, k), growth * (re * cosine + im * sine))
            store(keys, (row, F + k), growth * (im * cosine - re * sine))
            # Conjugate: the real part of filter times X is then a plain sum of products.
            re = load(filter_, (b, t, h, 0, k), lanes)
            im = load(filter_, (b, t, h, 1, k), lanes)
            store(filters, (row, k), decay * (re * cosine - im * sine))
            store(filters, (row, F + k), 0 - decay * (re * sine + im * cosine))
            store(factors, (row, 0, k), decay)
            store(factors, (row, 1, k), growth)
            store(factors, (row, 2, k), cosine)
            store(factors, (row, 3, k), sine)
    return time


@jit
def advance(spectrum, rate, h, time, direction, factors, lanes, bin_lanes):  # pyright: ignore
    """Multiply a spectrum (2 F, d) by ``exp(time mu)``, or by its conjugate if direction is -1."""
    F = rate.shape[2]
    for k in range(0, F, len(bin_lanes)):
        cosine, sine = cos_sin(time * load(rate, (h, 1, k), bin_lanes))
        decay = exp(0 - time * load(rate, (h, 0, k), bin_lanes))
        store(factors, k, decay * cosine)
        store(factors, F + k, decay * sine * direction)
    # Vectors hold bins above and channels below, hence two loops.
    for k in range(F):
        pole_re = factors[k]
        pole_im = factors[F + k]
        for c in range(0, spectrum.shape[1], len(lanes)):
            re = load(spectrum, (k, c), lanes)
            im = load(spectrum, (F + k, c), lanes)
            store(spectrum, (k, c), pole_re * re - pole_im * im)
            store(spectrum, (F + k, c), pole_im * re + pole_re * im)


@jit
def transpose(source, target):  # pyright: ignore
    """Rows of one matrix to columns of the other; NumPy's assignment takes half as long again."""
    rows, columns = source.shape
    for r in range(rows):
        for c in range(columns):
            target[c, r] = source[r, c]


@jit
def rotate_back(  # pyright: ignore
    inputs, rotated, grad_rotated, erased, exponent, grads, b, h, t0, first, last, lanes
):
    """Gradients of keys, filters, clock and rates of a stretch from those of what ``rotate`` made of them.

    A read-out at t contains exp(S(t) mu), a write exp(-S(t) mu), with the sum S(t) of the clock up to t. So
    the gradient of ``S(t) mu`` is filter times its gradient minus key times its gradient. That of
    ``clock(t) mu`` is the sum over all t' >= t: ``exponent``, (2, F), which begins with that of the state.
    ``erased`` is None, or the gradient of the vectors that the delta rule reads with: keys times the decay.
    """
    _, _, _, clock, rate = inputs
    keys, filters, factors = rotated
    grad_keys, grad_filters = grad_rotated
    _, grad_key, grad_filter, grad_clock, grad_rate, _ = grads
    F = rate.shape[2]
    # From the last token to the first, since the sum runs over later tokens.
    for t in range(last - 1, first - 1, -1):
        row = t - t0
        time = clock[b, t, h]
        total = time * 0
        for k in range(0, F, len(lanes)):
            filter_re = load(filters, (row, k), lanes)
            filter_im = load(filters, (row, F + k), lanes)
            grad_re = load(grad_filters, (row, k), lanes)
            grad_im = load(grad_filters, (row, F + k), lanes)
            key_re = load(keys, (row, k), lanes)
            key_im = load(keys, (row, F + k), lanes)
            grad_key_re = load(grad_keys, (row, k), lanes)
            grad_key_im = load(grad_keys, (row, F + k), lanes)
            if erased is not None:
                # The reading vector is the key times decay^2; it moves with exp(S(t) mu), as a filter does.
                faded = load(factors, (row, 0, k), lanes)
                faded = faded * faded
                erased_re = faded * load(erased, (row, k), lanes)
                erased_im = faded * load(erased, (row, F + k), lanes)
                grad_key_re = grad_key_re + erased_re
                grad_key_im = grad_key_im + erased_im
                twice = 2 * (key_re * erased_re + key_im * erased_im)
                store(exponent, (0, k), load(exponent, (0, k), lanes) + twice)
            # Filters are conjugate, so the sum adds filter conj(grad) and subtracts key times its gradient.
            sum_re = load(exponent, (0, k), lanes) + filter_re * grad_re + filter_im * grad_im
            sum_re = sum_re - key_re * grad_key_re - key_im * grad_key_im
            sum_im = load(exponent, (1, k), lanes) + filter_re * grad_im - filter_im * grad_re
            sum_im = sum_im - key_im * grad_key_re + key_re * grad_key_im
            store(exponent, (0, k), sum_re)
            store(exponent, (1, k), sum_im)
            # d clock mu = (mu d clock, clock d mu), of which the real part is -decay.
            index = (b, h, 0, k)
            store(grad_rate, index, load(grad_rate, index, lanes) - time * sum_re)
            index = (b, h, 1, k)
            store(grad_rate, index, load(grad_rate, index, lanes) - time * sum_im)
            # The clock's own gradient is the sum over the bins.
            slope = sum_re * load(rate, (h, 0, k), lanes) + sum_im * load(rate, (h, 1, k), lanes)
            total -= sum_lanes(slope)
            # Back through the rotation: its transpose turns the other way.
            decay = load(factors, (row, 0, k), lanes)
            growth = load(factors, (row, 1, k), lanes)
            cosine = load(factors, (row, 2, k), lanes)
            sine = load(factors, (row, 3, k), lanes)
            store(grad_filter, (b, t, h, 0, k), decay * (cosine * grad_re - sine * grad_im))
            store(grad_filter, (b, t, h, 1, k), 0 - decay * (sine * grad_re + cosine * grad_im))
            store(grad_key, (b, t, h, 0, k), growth * (cosine * grad_key_re - sine * grad_key_im))
            store(grad_key, (b, t, h, 1, k), growth * (sine * grad_key_re + cosine * grad_key_im))
        grad_clock[b, t, h] = total
