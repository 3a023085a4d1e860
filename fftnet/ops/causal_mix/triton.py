"""The CUDA backend of causal mixing: chunks of time in parallel, one program for a chunk of one head.

Forward: the end of every chunk from a zero state; a scan over the chunks, which gives the state before each;
then the outputs of every chunk from its state, with filter, modReLU and read-out fused, in one read of v and
the filter and one write of y. Backward: every chunk recomputes its spectrum and its adjoint as if no gradient
came from later chunks; a scan over the chunks in reverse; then what does come from later ones is added, which
needs no spectrum because it enters linearly.

A thread holds a whole chunk of its channel, so the scan along time is four multiply-adds an element in
registers, where a triangular product in full float32 takes two for every token of the chunk. No size is
specialised: a load that is known to be aligned would be vectorised and spread a channel over several threads.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fftnet.ops.causal_mix.torch import powers

BLOCK = 16
"""Tokens between two checkpoints of the state: what backward fits into the registers of a thread."""
LANES = 128
"""Most channels that a program handles."""
ROWS = 64
"""Most chunks that the scan over the chunks handles at once."""
WARP = 32
CHUNK, TINY = tl.constexpr(BLOCK), tl.constexpr(1e-15)
_jit: Any = triton.jit(do_not_specialize=["tokens", "heads", "width", "bins"])


@_jit
def _load(at, plane, mask):  # pyright: ignore
    return tl.load(at, mask, 0.0), tl.load(at + plane, mask, 0.0)


@_jit
def _store(at, plane, real, imag, mask):  # pyright: ignore
    tl.store(at, real, mask)
    tl.store(at + plane, imag, mask)


@_jit
def _then(ar, ai, xr, xi, br, bi, yr, yi):  # pyright: ignore
    return ar * br - ai * bi, ar * bi + ai * br, yr + br * xr - bi * xi, yi + br * xi + bi * xr


@_jit
def _scan(lr, li, xr, xi):  # pyright: ignore
    zero = tl.zeros_like(xr)
    _, _, zr, zi = tl.associative_scan((zero + lr, zero + li, xr, xi), 0, _then)
    return zr, zi


@_jit
def _total(x):  # pyright: ignore
    return tl.sum(tl.sum(x, 0), 0)


@_jit
def _program(tokens, heads, width, LANES: tl.constexpr):  # pyright: ignore
    groups, count, item = tl.cdiv(width, LANES), tl.cdiv(tokens, CHUNK), tl.program_id(0)
    head, block = item // groups % heads, item // groups // heads
    start = block % count * CHUNK
    row = ((block // count).to(tl.int64) * tokens + start) * heads
    n, lane = tl.arange(0, CHUNK), item % groups * LANES + tl.arange(0, LANES)
    tile = n[:, None] * (heads * width) + (head * width + lane)[None, :]
    inside = (n < tokens - start)[:, None] & (lane < width)[None, :]
    return head, block.to(tl.int64), row, tokens - start, n, lane, tile, inside


@_jit
def _reach(table, n, length, heads, bins, head, k):  # pyright: ignore
    age = min(length, CHUNK) - 1 - n
    wr, wi = _load(table + ((age * heads + head) * bins + k) * 2, 1, age >= 0)
    return wr[:, None], wi[:, None]


@_jit
def _ends(v, table, ends, tokens, heads, width, bins, LANES: tl.constexpr):  # pyright: ignore
    head, block, row, length, n, lane, tile, inside = _program(tokens, heads, width, LANES)
    x = tl.load(v + row * width + tile, inside, 0.0)
    for k in range(bins):
        wr, wi = _reach(table, n, length, heads, bins, head, k)
        end = ends + ((block * bins + k) * 2 * heads + head) * width + lane
        _store(end, heads * width, tl.sum(wr * x, 0), tl.sum(wi * x, 0), lane < width)


@_jit
def _carry(  # pyright: ignore
    ends,
    start,
    table,
    states,
    last,
    tokens,
    heads,
    width,
    bins,
    REVERSE: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    groups, count, item = tl.cdiv(width, LANES), tl.cdiv(tokens, CHUNK), tl.program_id(0)
    head, k = item // groups % heads, item // groups // heads % bins
    batch = (item // groups // heads // bins).to(tl.int64)
    lane = item % groups * LANES + tl.arange(0, LANES)
    plane, stride = heads * width, bins * 2 * heads * width
    channel = (k * 2 * heads + head) * width + lane
    whole = table + ((CHUNK * heads + head) * bins + k) * 2
    rest = table + (((tokens - (count - 1) * CHUNK) * heads + head) * bins + k) * 2
    first = batch * count + (count - 1 if REVERSE else 0)
    zr, zi = _load(start + batch * stride + channel, plane, lane < width)
    _store(states + first * stride + channel, plane, zr, zi, lane < width)
    for n0 in range(0, count, ROWS):
        n = n0 + tl.arange(0, ROWS)
        block = count - 1 - n if REVERSE else n
        after = block - 1 if REVERSE else block + 1
        short = (block == count - 1)[:, None]
        lr = tl.where(short, tl.load(rest), tl.load(whole))
        li = tl.where(short, tl.load(rest + 1), tl.load(whole + 1))
        li = -li if REVERSE else li
        inside = (n < count)[:, None] & (lane < width)[None, :]
        xr, xi = _load(ends + (batch * count + block)[:, None] * stride + channel[None, :], plane, inside)
        new, old = (n == n0)[:, None], (n == min(n0 + ROWS, count) - 1)[:, None]
        xr = tl.where(new, xr + lr * zr[None, :] - li * zi[None, :], xr)
        xi = tl.where(new, xi + lr * zi[None, :] + li * zr[None, :], xi)
        xr, xi = _scan(lr, li, xr, xi)
        zr, zi = tl.sum(tl.where(old, xr, 0.0), 0), tl.sum(tl.where(old, xi, 0.0), 0)
        inside = ((after >= 0) & (after < count))[:, None] & (lane < width)[None, :]
        _store(states + (batch * count + after)[:, None] * stride + channel[None, :], plane, xr, xi, inside)
    _store(last + batch * stride + channel, plane, zr, zi, lane < width)


@_jit
def _read_out(  # pyright: ignore
    v,
    filter_,
    bias,
    mixing,
    table,
    checkpoints,
    y,
    tokens,
    heads,
    width,
    bins,
    FLOOR: tl.constexpr,
    LANES: tl.constexpr,
):
    head, block, row, length, n, lane, tile, inside = _program(tokens, heads, width, LANES)
    first = (n == 0)[:, None]
    x = tl.load(v + row * width + tile, inside, 0.0)
    total = tl.zeros_like(x)
    for k in range(bins):
        pole = head * bins + k
        lr, li = _load(table + (heads * bins + pole) * 2, 1, True)
        mr, mi = _load(mixing + pole * 2, 1, True)
        start = checkpoints + ((block * bins + k) * 2 * heads + head) * width + lane
        br, bi = _load(start[None, :], heads * width, (lane < width)[None, :])
        xr, xi = tl.where(first, x + lr * br - li * bi, x), tl.where(first, lr * bi + li * br, 0.0)
        zr, zi = _scan(lr, li, xr, xi)
        f = tl.load(filter_ + row * bins + n * (heads * bins) + pole, n < length, 0.0)[:, None]
        magnitude = tl.abs(f) * tl.sqrt(zr * zr + zi * zi)
        raised = magnitude + tl.load(bias + pole)
        raised = tl.where(raised > 0, raised, 0.0)
        gain = f * raised / tl.where(magnitude > FLOOR, magnitude, FLOOR)
        total += gain * (mr * zr - mi * zi)
    tl.store(y + row * width + tile, total, inside)


@_jit
def _adjoint(  # pyright: ignore
    grad_y,
    v,
    filter_,
    bias,
    mixing,
    table,
    checkpoints,
    grad_v,
    grad_filter,
    ends,
    moments,
    sums,
    tokens,
    heads,
    width,
    bins,
    FLOOR: tl.constexpr,
    LANES: tl.constexpr,
):
    head, block, row, length, n, lane, tile, inside = _program(tokens, heads, width, LANES)
    groups, item = tl.cdiv(width, LANES), tl.program_id(0).to(tl.int64)
    first, plane = (n == 0)[:, None], heads * width
    x, gy = tl.load(v + row * width + tile, inside, 0.0), tl.load(grad_y + row * width + tile, inside, 0.0)
    earlier = tl.load(v + (row - heads) * width + tile, inside & (n > 0)[:, None], 0.0)
    total = tl.zeros_like(x)
    for k in range(bins):
        pole = head * bins + k
        lr, li = _load(table + (heads * bins + pole) * 2, 1, True)
        mr, mi = _load(mixing + pole * 2, 1, True)
        at = ((block * bins + k) * 2 * heads + head) * width + lane
        br, bi = _load(checkpoints + at[None, :], plane, (lane < width)[None, :])
        br, bi = _scan(lr, li, tl.where(first, br, earlier), tl.where(first, bi, 0.0))
        zr, zi = x + lr * br - li * bi, lr * bi + li * br
        f = tl.load(filter_ + row * bins + n * (heads * bins) + pole, n < length, 0.0)[:, None]
        modulus = tl.sqrt(zr * zr + zi * zi)
        magnitude = tl.abs(f) * modulus
        raised = magnitude + tl.load(bias + pole)
        normal = magnitude >= FLOOR
        share = tl.where(raised > 0, 1.0, 0.0) / tl.where(normal, magnitude, FLOOR)
        gain, slope = raised * share, magnitude * share
        dot = gy * (mr * zr - mi * zi)
        inverse = 1.0 / tl.where(modulus > TINY, modulus, TINY)
        radial = dot * inverse
        bend = tl.where(normal, slope - gain, slope)
        part = grad_filter + row * groups * bins + ((n * heads + head) * groups + item % groups) * bins + k
        tl.store(part, tl.sum((gain + bend) * dot, 1), n < length)
        out = sums + (item * bins + k) * 5
        weight, turn = gy * gain * f, f * bend * radial * inverse
        tl.store(out, _total(tl.where(f >= 0, slope, -slope) * radial))
        _store(out + 1, 1, _total(weight * zr), -_total(weight * zi), True)
        gr, gi = tl.flip(weight * mr + turn * zr, 0), tl.flip(turn * zi - weight * mi, 0)
        gr, gi = _scan(lr, -li, gr, gi)
        gr, gi = tl.flip(gr, 0), tl.flip(gi, 0)
        total += gr
        _store(out + 3, 1, _total(gr * br + gi * bi), _total(gi * br - gr * bi), True)
        gr, gi = tl.sum(tl.where(first, gr, 0.0), 0), tl.sum(tl.where(first, gi, 0.0), 0)
        _store(ends + at, plane, lr * gr + li * gi, lr * gi - li * gr, lane < width)
        wr, wi = _reach(table, n, length, heads, bins, head, k)
        _store(moments + at, plane, tl.sum(wr * br - wi * bi, 0), tl.sum(wr * bi + wi * br, 0), lane < width)
    tl.store(grad_v + row * width + tile, total, inside)


@_jit
def _add_later(  # pyright: ignore
    table, later, moments, grad_v, sums, tokens, heads, width, bins, LANES: tl.constexpr
):
    head, block, row, length, n, lane, tile, inside = _program(tokens, heads, width, LANES)
    total = tl.load(grad_v + row * width + tile, inside, 0.0)
    for k in range(bins):
        at, plane = ((block * bins + k) * 2 * heads + head) * width + lane, heads * width
        gr, gi = _load(later + at, plane, lane < width)
        br, bi = _load(moments + at, plane, lane < width)
        wr, wi = _reach(table, n, length, heads, bins, head, k)
        total += wr * gr[None, :] + wi * gi[None, :]
        out = sums + (tl.program_id(0).to(tl.int64) * bins + k) * 5 + 3
        grad_lr, grad_li = _load(out, 1, True)
        grad_lr, grad_li = grad_lr + tl.sum(gr * br + gi * bi, 0), grad_li + tl.sum(gi * br - gr * bi, 0)
        _store(out, 1, grad_lr, grad_li, True)
    tl.store(grad_v + row * width + tile, total, inside)


def _table(decay: Tensor, frequency: Tensor) -> Tensor:
    """``lambda^n`` for n = 0 .. BLOCK as (n, H, F, 2), with no error beyond that of its own dtype."""
    return torch.view_as_real(powers(decay.double(), frequency.double(), BLOCK + 1)).to(decay.dtype)


def _tile(width: int, most: int) -> tuple[int, dict[str, int]]:
    lanes = min(1 << (width - 1).bit_length(), most)
    return -(-width // lanes), {"LANES": lanes, "num_warps": max(lanes // WARP, 1)}


def _sweep(v: Tensor, ends: Tensor, start: Tensor, table: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """What enters every chunk and what leaves the last one, from ``ends``, what a chunk adds to it."""
    (batch, bins, _, heads, width), sizes = start.shape, (*v.shape[1:], start.shape[1])
    states, last = torch.empty_like(ends), torch.empty_like(start)
    groups, options = _tile(width, WARP)
    rows = ROWS if ends.shape[1] > BLOCK else BLOCK
    options |= {"REVERSE": reverse, "ROWS": rows, "num_warps": rows // BLOCK}
    _carry[(batch * bins * heads * groups,)](ends, start, table, states, last, *sizes, **options)
    return states, last


def forward(
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    state: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :mod:`fftnet.ops.causal_mix` for the contract of a backend."""
    (batch, tokens, heads, width), count = v.shape, -(-v.shape[1] // BLOCK)
    groups, options = _tile(width, LANES)
    grid, sizes = (batch * count * heads * groups,), (tokens, heads, width, state.shape[1])
    with torch.cuda.device_of(v):
        table, y = _table(decay, frequency), torch.empty_like(v)
        ends = v.new_empty(batch, count, *state.shape[1:])
        _ends[grid](v, table, ends, *sizes, **options)
        checkpoints, last = _sweep(v, ends, state, table, reverse=False)
        _read_out[grid](v, filter_, bias, mixing, table, checkpoints, y, *sizes, FLOOR=floor, **options)
    return y, last, checkpoints


def backward(
    grad_y: Tensor,
    grad_state: Tensor,
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    checkpoints: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :mod:`fftnet.ops.causal_mix` for the contract of a backend."""
    (batch, count, bins), (_, tokens, heads, width) = checkpoints.shape[:3], v.shape
    groups, options = _tile(width, LANES)
    grid, sizes = (batch * count * heads * groups,), (tokens, heads, width, bins)
    with torch.cuda.device_of(v):
        table, grad_v = _table(decay, frequency), torch.empty_like(v)
        ends, moments = torch.empty_like(checkpoints), torch.empty_like(checkpoints)
        parts = v.new_empty(batch, tokens, heads, groups, bins)
        sums = v.new_empty(batch * count, heads, groups, bins, 5)
        tensors = (grad_y, v, filter_, bias, mixing, table, checkpoints, grad_v, parts, ends, moments, sums)
        _adjoint[grid](*tensors, *sizes, FLOOR=floor, **options)
        later, grad_start = _sweep(v, ends, grad_state, table, reverse=True)
        _add_later[grid](table, later, moments, grad_v, sums, *sizes, **options)
    grad_bias, grad_cr, grad_ci, grad_lr, grad_li = sums.sum(dim=(0, 2)).movedim(-1, 0)
    grad_mixing = torch.stack([grad_cr, grad_ci], dim=-1)
    lr, li = table[1].unbind(-1)
    grad_decay, grad_frequency = -(lr * grad_lr + li * grad_li), lr * grad_li - li * grad_lr
    return grad_v, parts.sum(3), grad_decay, grad_frequency, grad_bias.contiguous(), grad_mixing, grad_start
