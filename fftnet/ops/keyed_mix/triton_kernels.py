"""The Triton kernels of keyed mixing; see ``fftnet.ops.keyed_mix.gpu`` for how they make the operator.

All take turned keys and filters, filters conjugate; ``time`` is the clock's sum since the beginning of a
token's chunk, (B, T, H), ``decay`` is (H, F), and ``states`` those before every chunk, (B, N, H, 2, F, d).
With ``REVERSE`` time runs backwards, and what is called key, filter or values is what takes that part then.
"""

import torch
import triton.language as tl
from torch import Tensor

from fftnet.ops.causal_mix.triton_tiles import load_complex, store_complex
from fftnet.ops.keyed_mix.triton_tiles import (
    BINS,
    BLOCK,
    CHUNK,
    STRETCH,
    across,
    dot,
    earlier,
    faded,
    kernel,
    locate,
    power_of_two,
    rows,
    since_chunk,
    within,
)

LANES = 64
"""Most channels that a program handles at once."""
FEWEST = 16
"""Fewest channels that a matrix product takes."""


@kernel
def _ends(  # pyright: ignore
    key,
    values,
    time,
    decay,
    ends,
    tokens,
    heads,
    width,
    bins,
    REVERSE: tl.constexpr,
    LANES: tl.constexpr,
):
    """What a chunk adds to the state at its end: its sum of ``key(t) v(t)``, each decayed until then.

    One program for BINS bins and LANES channels of a chunk of one head.
    """
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
    passed = tl.load(time + row, inside, 0.0)
    age = passed if REVERSE else tl.where(inside, tl.max(passed, 0) - passed, 0.0)
    left = faded(age, tl.load(decay + head * bins + k, k < bins, 0.0))
    mask = inside[:, None] & (k < bins)[None, :]
    key_r, key_i = load_complex(key + row[:, None] * 2 * bins + k[None, :], bins, mask)
    x = tl.load(values + row[:, None] * width + lane[None, :], inside[:, None] & (lane < width)[None, :], 0.0)
    end_r = dot(tl.trans(key_r * left), x)
    end_i = dot(tl.trans(key_i * left), x)
    end = ends + ((block * heads + head) * 2 * bins + k[:, None]) * width + lane[None, :]
    store_complex(end, bins * width, end_r, end_i, (k < bins)[:, None] & (lane < width)[None, :])


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
    """The outputs of a stretch: LANES channels of one head to a program."""
    part, head, origin, first, block = locate(tokens, heads, tl.cdiv(width, LANES))
    row, inside = rows(first, origin, head, tokens, heads)
    since = since_chunk(time, row, inside, first, origin, head, tokens, heads, REVERSE)
    between, pair = within(time, row, inside, REVERSE)
    lane = part * LANES + tl.arange(0, LANES)
    channels = (lane < width)[None, :]
    x = tl.load(values + row[:, None] * width + lane[None, :], inside[:, None] & channels, 0.0)
    total = tl.zeros_like(x)
    score = tl.zeros_like(between)
    for k0 in range(0, bins, BINS):
        k = k0 + tl.arange(0, BINS)
        mask = inside[:, None] & (k < bins)[None, :]
        rate = tl.load(decay + head * bins + k, k < bins, 0.0)
        at = row[:, None] * 2 * bins + k[None, :]
        filter_r, filter_i = load_complex(filter_ + at, bins, mask)
        key_r, key_i = load_complex(key + at, bins, mask)
        pairs = filter_r[:, None, :] * key_r[None, :, :] + filter_i[:, None, :] * key_i[None, :, :]
        score += tl.sum(pairs * tl.exp(-between[:, :, None] * rate[None, None, :]), 2)
        state = states + ((block * heads + head) * 2 * bins + k[:, None]) * width + lane[None, :]
        state_r, state_i = load_complex(state, bins * width, (k < bins)[:, None] & channels)
        left = faded(since, rate)
        total += dot(filter_r * left, state_r) + dot(filter_i * left, state_i)
    total += dot(tl.where(pair, score, 0.0), x)
    begin, end = earlier(first, tokens, REVERSE)
    for before in range(begin, end, STRETCH):
        before_row, before_inside = rows(before, origin, head, tokens, heads)
        since, until = across(time, row, inside, before_row, before_inside, REVERSE)
        score = tl.zeros_like(between)
        for k0 in range(0, bins, BINS):
            k = k0 + tl.arange(0, BINS)
            exists = (k < bins)[None, :]
            rate = tl.load(decay + head * bins + k, k < bins, 0.0)
            at = row[:, None] * 2 * bins + k[None, :]
            filter_r, filter_i = load_complex(filter_ + at, bins, inside[:, None] & exists)
            at = before_row[:, None] * 2 * bins + k[None, :]
            key_r, key_i = load_complex(key + at, bins, before_inside[:, None] & exists)
            left = faded(since, rate)
            key_left = faded(until, rate)
            score += dot(filter_r * left, tl.trans(key_r * key_left))
            score += dot(filter_i * left, tl.trans(key_i * key_left))
        at = before_row[:, None] * width + lane[None, :]
        total += dot(score, tl.load(values + at, before_inside[:, None] & channels, 0.0))
    tl.store(mixed + row[:, None] * width + lane[None, :], total, inside[:, None] & channels)


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
    """The gradient of the filters of a stretch, or in reverse of its keys: BINS bins to a program.

    That of bin k is the product of the output's gradient and ``X_k``, summed over the channels; X is not
    made, since the products with the values give the same.
    """
    part, head, origin, first, block = locate(tokens, heads, tl.cdiv(bins, BINS))
    row, inside = rows(first, origin, head, tokens, heads)
    since = since_chunk(time, row, inside, first, origin, head, tokens, heads, REVERSE)
    between, pair = within(time, row, inside, REVERSE)
    k = part * BINS + tl.arange(0, BINS)
    exists = (k < bins)[None, :]
    rate = tl.load(decay + head * bins + k, k < bins, 0.0)
    product = tl.zeros_like(between)
    total_r = tl.zeros((STRETCH, BINS), time.dtype.element_ty)
    total_i = tl.zeros((STRETCH, BINS), time.dtype.element_ty)
    for c0 in range(0, width, LANES):
        lane = c0 + tl.arange(0, LANES)
        mask = inside[:, None] & (lane < width)[None, :]
        grad = tl.load(grad_mixed + row[:, None] * width + lane[None, :], mask, 0.0)
        x = tl.load(values + row[:, None] * width + lane[None, :], mask, 0.0)
        state = states + ((block * heads + head) * 2 * bins + k[:, None]) * width + lane[None, :]
        state_r, state_i = load_complex(state, bins * width, (k < bins)[:, None] & (lane < width)[None, :])
        product += dot(grad, tl.trans(x))
        total_r += dot(grad, tl.trans(state_r))
        total_i += dot(grad, tl.trans(state_i))
    own = row[:, None] * 2 * bins + k[None, :]
    key_r, key_i = load_complex(key + own, bins, inside[:, None] & exists)
    product = tl.where(pair, product, 0.0)
    weight = product[:, :, None] * tl.exp(-between[:, :, None] * rate[None, None, :])
    left = faded(since, rate)
    total_r = total_r * left + tl.sum(weight * key_r[None, :, :], 1)
    total_i = total_i * left + tl.sum(weight * key_i[None, :, :], 1)
    begin, end = earlier(first, tokens, REVERSE)
    for before in range(begin, end, STRETCH):
        before_row, before_inside = rows(before, origin, head, tokens, heads)
        since, until = across(time, row, inside, before_row, before_inside, REVERSE)
        product = tl.zeros_like(between)
        for c0 in range(0, width, LANES):
            lane = c0 + tl.arange(0, LANES)
            channels = (lane < width)[None, :]
            at = row[:, None] * width + lane[None, :]
            grad = tl.load(grad_mixed + at, inside[:, None] & channels, 0.0)
            at = before_row[:, None] * width + lane[None, :]
            product += dot(grad, tl.trans(tl.load(values + at, before_inside[:, None] & channels, 0.0)))
        at = before_row[:, None] * 2 * bins + k[None, :]
        key_r, key_i = load_complex(key + at, bins, before_inside[:, None] & exists)
        left = faded(since, rate)
        key_left = faded(until, rate)
        total_r += left * dot(product, key_r * key_left)
        total_i += left * dot(product, key_i * key_left)
    store_complex(grad_filter + own, bins, total_r, total_i, inside[:, None] & exists)


def ends(key: Tensor, values: Tensor, time: Tensor, decay: Tensor, *, reverse: bool = False) -> Tensor:
    """What every chunk adds to the state, (B, N, H, 2, F, d)."""
    batch, tokens, heads, width = values.shape
    bins = decay.shape[1]
    count = -(-tokens // BLOCK)
    lanes = _lanes(width)
    added = values.new_empty(batch, count, heads, 2, bins, width)
    programs = batch * count * heads * -(-bins // BINS.value) * -(-width // lanes)
    sizes = (tokens, heads, width, bins)
    _ends[(programs,)](key, values, time, decay, added, *sizes, REVERSE=reverse, LANES=lanes)
    return added


def read(
    filter_: Tensor,
    key: Tensor,
    values: Tensor,
    time: Tensor,
    decay: Tensor,
    states: Tensor,
    *,
    reverse: bool = False,
) -> Tensor:
    """The outputs of all tokens, (B, T, H, d)."""
    batch, tokens, heads, width = values.shape
    lanes = _lanes(width)
    mixed = torch.empty_like(values)
    programs = batch * -(-tokens // STRETCH.value) * heads * -(-width // lanes)
    sizes = (tokens, heads, width, decay.shape[1])
    tensors = (filter_, key, values, time, decay, states, mixed)
    _read[(programs,)](*tensors, *sizes, REVERSE=reverse, LANES=lanes)
    return mixed


def match(
    grad_mixed: Tensor,
    values: Tensor,
    key: Tensor,
    time: Tensor,
    decay: Tensor,
    states: Tensor,
    *,
    reverse: bool = False,
) -> Tensor:
    """The gradients of all filters, (B, T, H, 2, F)."""
    batch, tokens, heads, width = values.shape
    bins = decay.shape[1]
    grad_filter = torch.empty_like(key)
    programs = batch * -(-tokens // STRETCH.value) * heads * -(-bins // BINS.value)
    sizes = (tokens, heads, width, bins)
    tensors = (grad_mixed, values, key, time, decay, states, grad_filter)
    _match[(programs,)](*tensors, *sizes, REVERSE=reverse, LANES=_lanes(width))
    return grad_filter


def _lanes(width: int) -> int:
    return max(min(power_of_two(width), LANES), FEWEST)
