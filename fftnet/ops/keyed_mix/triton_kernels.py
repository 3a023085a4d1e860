"""The Triton kernels of keyed mixing; see ``fftnet.ops.gpu`` for how to read them.

``fftnet.ops.keyed_mix.gpu`` explains how they make the operator. All take rotated keys and filters
(B, T, H, 2, F), filters conjugate; ``decay`` is (H, F), and ``states`` those before every chunk,
(B, N, H, 2, F, d). With ``REVERSE`` time runs backwards; key, filter and values are then the tensors that
take their parts.
"""

import torch
import triton.language as tl
from torch import Tensor

from fftnet.ops.gpu.tiles import (
    BINS,
    BLOCK,
    CHUNK,
    STRETCH,
    across,
    decay_over,
    dot,
    earlier,
    kernel,
    load_bins,
    load_channels,
    load_complex,
    locate,
    power_of_two,
    rows,
    since_chunk,
    store_complex,
    within,
)

LANES = 64  # Most channels that a program handles at once.
FEWEST = 16  # Fewest channels that a matrix product takes.


@kernel
def _load_state(states, block, head, heads, k, bins, lane, width):  # pyright: ignore
    """Load bins k and channels ``lane`` of the state before a chunk."""
    at = states + ((block * heads + head) * 2 * bins + k[:, None]) * width + lane[None, :]
    return load_complex(at, bins * width, (k < bins)[:, None] & (lane < width)[None, :])


@kernel
def _ends(  # pyright: ignore
    key, values, time, decay, ends, tokens, heads, width, bins, REVERSE: tl.constexpr, LANES: tl.constexpr
):
    """Contribution of a chunk to the state at its end: its sum of ``key(t) v(t)``, each decayed until then.

    One program for BINS bins and LANES channels of a chunk of one head.
    """
    # Program number: block, head, bins, channels, the last fastest.
    groups = tl.cdiv(width, LANES)
    parts = groups * tl.cdiv(bins, BINS)
    count = tl.cdiv(tokens, CHUNK)
    item = tl.program_id(0)
    lane = item % groups * LANES + tl.arange(0, LANES)
    k = item % parts // groups * BINS + tl.arange(0, BINS)
    head = item // parts % heads
    block = (item // parts // heads).to(tl.int64)
    n = block % count * CHUNK + tl.arange(0, CHUNK)
    row = (block // count * tokens + n) * heads + head
    inside = n < tokens
    # Ages count from the end of the chunk, so no exponent is positive.
    passed = tl.load(time + row, inside, 0.0)
    age = passed if REVERSE else tl.where(inside, tl.max(passed, 0) - passed, 0.0)
    factor = decay_over(age, tl.load(decay + head * bins + k, k < bins, 0.0))
    key_re, key_im = load_bins(key, row, inside, k, bins)
    x = load_channels(values, row, inside, lane, width)
    # The sum over the chunk's tokens is a matrix product, bins times channels.
    end_re = dot(tl.trans(key_re * factor), x)
    end_im = dot(tl.trans(key_im * factor), x)
    end = ends + ((block * heads + head) * 2 * bins + k[:, None]) * width + lane[None, :]
    store_complex(end, bins * width, end_re, end_im, (k < bins)[:, None] & (lane < width)[None, :])


@kernel
def _read(  # pyright: ignore
    filter_,
    key,
    values,
    time,
    decay,
    states,
    mixed,
    tokens,
    heads,
    width,
    bins,
    REVERSE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Outputs of a stretch (docs/maths.md, section 3, step 6): LANES channels of one head to a program."""
    part, head, origin, first, block = locate(tokens, heads, tl.cdiv(width, LANES))
    row, inside = rows(first, origin, head, tokens, heads)
    since = since_chunk(time, row, inside, first, origin, head, tokens, heads, REVERSE)
    between, pair = within(time, row, inside, REVERSE)
    lane = part * LANES + tl.arange(0, LANES)
    x = load_channels(values, row, inside, lane, width)
    total = tl.zeros_like(x)
    score = tl.zeros_like(between)
    # The state before the chunk, and the stretch's own tokens: a weight for each pair and bin.
    for k0 in range(0, bins, BINS):
        k = k0 + tl.arange(0, BINS)
        rate = tl.load(decay + head * bins + k, k < bins, 0.0)
        filter_re, filter_im = load_bins(filter_, row, inside, k, bins)
        key_re, key_im = load_bins(key, row, inside, k, bins)
        # Re(filter key) of every pair: a sum of both planes, since filters are conjugate.
        pairs = filter_re[:, None, :] * key_re[None, :, :] + filter_im[:, None, :] * key_im[None, :, :]
        score += tl.sum(pairs * tl.exp(-between[:, :, None] * rate[None, None, :]), 2)
        state_re, state_im = _load_state(states, block, head, heads, k, bins, lane, width)
        factor = decay_over(since, rate)
        total += dot(filter_re * factor, state_re) + dot(filter_im * factor, state_im)
    # Tokens that come later than the one that reads are masked.
    total += dot(tl.where(pair, score, 0.0), x)
    # Earlier stretches of the chunk: two matrix products, with decays counted from an edge between them.
    begin, end = earlier(first, tokens, REVERSE)
    for before in range(begin, end, STRETCH):
        before_row, before_inside = rows(before, origin, head, tokens, heads)
        since, until = across(time, row, inside, before_row, before_inside, REVERSE)
        score = tl.zeros_like(between)
        for k0 in range(0, bins, BINS):
            k = k0 + tl.arange(0, BINS)
            rate = tl.load(decay + head * bins + k, k < bins, 0.0)
            filter_re, filter_im = load_bins(filter_, row, inside, k, bins)
            key_re, key_im = load_bins(key, before_row, before_inside, k, bins)
            factor = decay_over(since, rate)
            key_factor = decay_over(until, rate)
            score += dot(filter_re * factor, tl.trans(key_re * key_factor))
            score += dot(filter_im * factor, tl.trans(key_im * key_factor))
        total += dot(score, load_channels(values, before_row, before_inside, lane, width))
    mask = inside[:, None] & (lane < width)[None, :]
    tl.store(mixed + row[:, None] * width + lane[None, :], total, mask)


@kernel
def _match(  # pyright: ignore
    grad_mixed,
    values,
    key,
    time,
    decay,
    states,
    grad_filter,
    tokens,
    heads,
    width,
    bins,
    REVERSE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradient of the filters of a stretch, or in reverse of its keys: BINS bins to a program.

    That of bin k is the product of the output's gradient and ``X_k``, summed over the channels. X is not
    made, since products with the values give the same.
    """
    part, head, origin, first, block = locate(tokens, heads, tl.cdiv(bins, BINS))
    row, inside = rows(first, origin, head, tokens, heads)
    since = since_chunk(time, row, inside, first, origin, head, tokens, heads, REVERSE)
    between, pair = within(time, row, inside, REVERSE)
    k = part * BINS + tl.arange(0, BINS)
    rate = tl.load(decay + head * bins + k, k < bins, 0.0)
    product = tl.zeros_like(between)
    total_re = tl.zeros((STRETCH, BINS), time.dtype.element_ty)
    total_im = tl.zeros((STRETCH, BINS), time.dtype.element_ty)
    # The state before the chunk, and the stretch's own tokens.
    for c0 in range(0, width, LANES):
        lane = c0 + tl.arange(0, LANES)
        grad = load_channels(grad_mixed, row, inside, lane, width)
        state_re, state_im = _load_state(states, block, head, heads, k, bins, lane, width)
        product += dot(grad, tl.trans(load_channels(values, row, inside, lane, width)))
        total_re += dot(grad, tl.trans(state_re))
        total_im += dot(grad, tl.trans(state_im))
    # Gradient of filter(t): sum over j <= t of (grad_y(t) . v(j)) exp(-(s(t) - s(j)) a) key(j).
    key_re, key_im = load_bins(key, row, inside, k, bins)
    product = tl.where(pair, product, 0.0)
    weight = product[:, :, None] * tl.exp(-between[:, :, None] * rate[None, None, :])
    factor = decay_over(since, rate)
    total_re = total_re * factor + tl.sum(weight * key_re[None, :, :], 1)
    total_im = total_im * factor + tl.sum(weight * key_im[None, :, :], 1)
    # Earlier stretches of the chunk.
    begin, end = earlier(first, tokens, REVERSE)
    for before in range(begin, end, STRETCH):
        before_row, before_inside = rows(before, origin, head, tokens, heads)
        since, until = across(time, row, inside, before_row, before_inside, REVERSE)
        product = tl.zeros_like(between)
        for c0 in range(0, width, LANES):
            lane = c0 + tl.arange(0, LANES)
            grad = load_channels(grad_mixed, row, inside, lane, width)
            product += dot(grad, tl.trans(load_channels(values, before_row, before_inside, lane, width)))
        key_re, key_im = load_bins(key, before_row, before_inside, k, bins)
        factor = decay_over(since, rate)
        key_factor = decay_over(until, rate)
        total_re += factor * dot(product, key_re * key_factor)
        total_im += factor * dot(product, key_im * key_factor)
    at = grad_filter + row[:, None] * 2 * bins + k[None, :]
    store_complex(at, bins, total_re, total_im, inside[:, None] & (k < bins)[None, :])


def _lanes(width: int) -> int:
    return max(min(power_of_two(width), LANES), FEWEST)


def ends(key: Tensor, values: Tensor, time: Tensor, decay: Tensor, *, reverse: bool = False) -> Tensor:
    """Return the contribution of every chunk to the state at its end, (B, N, H, 2, F, d)."""
    batch, tokens, heads, width = values.shape
    bins = decay.shape[1]
    count = -(-tokens // BLOCK)
    lanes = _lanes(width)
    added = values.new_empty(batch, count, heads, 2, bins, width)
    programs = batch * count * heads * -(-bins // BINS.value) * -(-width // lanes)
    sizes = (tokens, heads, width, bins)
    _ends[(programs,)](key, values, time, decay, added, *sizes, REVERSE=reverse, LANES=lanes)
    return added


def read(*tensors: Tensor, reverse: bool = False) -> Tensor:
    """Return the outputs (B, T, H, d) from filter, key, values, time, decay and states."""
    _, _, values, _, decay, _ = tensors
    batch, tokens, heads, width = values.shape
    lanes = _lanes(width)
    mixed = torch.empty_like(values)
    programs = batch * -(-tokens // STRETCH.value) * heads * -(-width // lanes)
    sizes = (tokens, heads, width, decay.shape[1])
    _read[(programs,)](*tensors, mixed, *sizes, REVERSE=reverse, LANES=lanes)
    return mixed


def match(*tensors: Tensor, reverse: bool = False) -> Tensor:
    """Return the gradients of filters, from grad_mixed, values, key, time, decay and states."""
    _, values, key, _, decay, _ = tensors
    batch, tokens, heads, width = values.shape
    bins = decay.shape[1]
    grad_filter = torch.empty_like(key)
    programs = batch * -(-tokens // STRETCH.value) * heads * -(-bins // BINS.value)
    sizes = (tokens, heads, width, bins)
    _match[(programs,)](*tensors, grad_filter, *sizes, REVERSE=reverse, LANES=_lanes(width))
    return grad_filter
