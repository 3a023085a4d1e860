"""Parts of the Triton kernels of keyed mixing: a program's place in the work, ages, the scan over the chunks.

A *program* is what CUDA calls a block of threads. It computes on tiles, small arrays that its threads hold
together; a mask says which of a tile's elements exist, and nothing else is read or written. Complex numbers
come as two tiles, with names that end in ``_r`` and ``_i``; see ``fftnet.ops.causal_mix.triton_tiles``.

Time is cut into chunks of BLOCK tokens, and those into stretches of STRETCH. ``REVERSE`` turns time around:
what is "before" a token is then after it, as gradients flow.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fftnet.ops.causal_mix.triton_tiles import load_complex, scan, store_complex

BLOCK = 64
"""Tokens between two checkpoints of the state; a state takes 2 F / BLOCK of the memory of their values."""
ROWS = 64
"""Most chunks that the scan over the chunks handles at once."""
WARP = 32
"""Threads that run in lockstep, and channels that a program of that scan handles."""
CHUNK = tl.constexpr(BLOCK)
STRETCH = tl.constexpr(16)
"""Tokens of which each pair has a weight of its own for every bin."""
BINS = tl.constexpr(16)
"""Bins that a program handles at once: the fewest that a matrix product takes."""

# A kernel is compiled once for all lengths, not anew for those that are multiples of 16.
kernel: Any = triton.jit(do_not_specialize=["tokens"])


@kernel
def dot(a, b):  # pyright: ignore
    """A matrix product without rounding to shorter numbers."""
    return tl.dot(a, b, input_precision="ieee")


@kernel
def faded(age, decay):  # pyright: ignore
    """How much of what is so old is left in every bin: (N,) ages and (BINS,) decays give (N, BINS)."""
    return tl.exp(-age[:, None] * decay[None, :])


@kernel
def locate(tokens, heads, parts):  # pyright: ignore
    """This program's place in the work: one stretch of one head of one row of the batch, or a part of that.

    Returns:
        Which of the parts; the head; the row's first token in (B, T); the stretch's first token in the row;
        and the chunk's number b * N + n.
    """
    item = tl.program_id(0)
    stretches = tl.cdiv(tokens, STRETCH)
    first = item // parts // heads % stretches * STRETCH
    batch = (item // parts // heads // stretches).to(tl.int64)
    block = batch * tl.cdiv(tokens, CHUNK) + first // CHUNK
    return item % parts, item // parts % heads, batch * tokens, first, block


@kernel
def rows(first, origin, head, tokens, heads):  # pyright: ignore
    """The offsets of a stretch's tokens in (B, T, H), (STRETCH,), and which of them exist."""
    n = first + tl.arange(0, STRETCH)
    return (origin + n) * heads + head, n < tokens


@kernel
def earlier(first, tokens, REVERSE: tl.constexpr):  # pyright: ignore
    """The range of tokens that come before a stretch in its chunk."""
    chunk = first // CHUNK * CHUNK
    begin = first + STRETCH if REVERSE else chunk
    end = min(chunk + CHUNK, tokens) if REVERSE else first
    return begin, end


@kernel
def since_chunk(time, row, inside, first, origin, head, tokens, heads, REVERSE: tl.constexpr):  # pyright: ignore
    """The time from the chunk's beginning to each token of a stretch, (STRETCH,)."""
    passed = tl.load(time + row, inside, 0.0)
    if REVERSE:
        last = min(first // CHUNK * CHUNK + CHUNK, tokens) - 1
        passed = tl.where(inside, tl.load(time + (origin + last) * heads + head) - passed, 0.0)
    return passed


@kernel
def within(time, row, inside, REVERSE: tl.constexpr):  # pyright: ignore
    """The time from token j of a stretch to token n, (STRETCH, STRETCH), and whether j comes no later."""
    passed = tl.load(time + row, inside, 0.0)
    n = tl.arange(0, STRETCH)
    pair = n[:, None] <= n[None, :] if REVERSE else n[:, None] >= n[None, :]
    pair = pair & inside[:, None] & inside[None, :]
    between = passed[:, None] - passed[None, :]
    return tl.where(pair, -between if REVERSE else between, 0.0), pair


@kernel
def across(time, row, inside, before_row, before_inside, REVERSE: tl.constexpr):  # pyright: ignore
    """The time from an edge between two stretches to each token of one, and from each of the other to it.

    Two tokens are as far apart as both are from the edge between them, which is why a product of matrices
    does for the two stretches; within one, no edge lies between every two tokens.
    """
    passed = tl.load(time + row, inside, 0.0)
    before = tl.load(time + before_row, before_inside, 0.0)
    edge = tl.max(passed, 0) if REVERSE else tl.max(before, 0)
    since = edge - passed if REVERSE else passed - edge
    until = before - edge if REVERSE else edge - before
    return tl.where(inside, since, 0.0), tl.where(before_inside, until, 0.0)


@kernel
def turn(x_r, x_i, turns, plane, exists, REVERSE: tl.constexpr):  # pyright: ignore
    """Turn a complex tile by what a chunk turns, or in reverse back by it."""
    cosine, sine = load_complex(turns, plane, exists)
    sine = -sine if REVERSE else sine
    return cosine * x_r - sine * x_i, sine * x_r + cosine * x_i


@kernel
def _carry(  # pyright: ignore
    ends,
    start,
    turns,
    fallen,
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
    """The state before every chunk and after the last, for one bin of one head: a scan over the chunks.

    In reverse: the gradient that enters every chunk from later ones, turned as the chunk's end is, and the
    one before the first.
    """
    groups = tl.cdiv(width, LANES)
    count = tl.cdiv(tokens, CHUNK)
    item = tl.program_id(0)
    lane = item % groups * LANES + tl.arange(0, LANES)
    k = item // groups % bins
    head = item // groups // bins % heads
    batch = (item // groups // bins // heads).to(tl.int64)
    plane = bins * width
    stride = heads * 2 * plane
    channel = (head * 2 * bins + k) * width + lane
    z_r, z_i = load_complex(start + batch * stride + channel, plane, lane < width)
    entry = batch * count + (count - 1 if REVERSE else 0)
    first_r = z_r
    first_i = z_i
    if REVERSE:
        first_r, first_i = turn(z_r, z_i, turns + (entry * heads + head) * 2 * bins + k, bins, True, REVERSE)
    store_complex(states + entry * stride + channel, plane, first_r, first_i, lane < width)
    for n0 in range(0, count, ROWS):
        n = n0 + tl.arange(0, ROWS)
        block = count - 1 - n if REVERSE else n
        after = block - 1 if REVERSE else block + 1
        exists = (n < count)[:, None]
        inside = exists & (lane < width)[None, :]
        here = (batch * count + block)[:, None]
        x_r, x_i = load_complex(ends + here * stride + channel[None, :], plane, inside)
        turned = turns + (here * heads + head) * 2 * bins + k
        left = tl.load(fallen + (here * heads + head) * bins + k, exists, 0.0)
        pole_r, pole_i = turn(left, tl.zeros_like(left), turned, bins, exists, REVERSE)
        if not REVERSE:
            x_r, x_i = turn(x_r, x_i, turned, bins, exists, REVERSE)
        # What the rows before have left enters with the first row; the last row hands it on.
        new = (n == n0)[:, None]
        old = (n == min(n0 + ROWS, count) - 1)[:, None]
        x_r = tl.where(new, x_r + pole_r * z_r[None, :] - pole_i * z_i[None, :], x_r)
        x_i = tl.where(new, x_i + pole_r * z_i[None, :] + pole_i * z_r[None, :], x_i)
        x_r, x_i = scan(pole_r, pole_i, x_r, x_i)
        z_r = tl.sum(tl.where(old, x_r, 0.0), 0)
        z_i = tl.sum(tl.where(old, x_i, 0.0), 0)
        exists = ((after >= 0) & (after < count))[:, None]
        inside = exists & (lane < width)[None, :]
        there = (batch * count + after)[:, None]
        if REVERSE:
            turned = turns + (there * heads + head) * 2 * bins + k
            x_r, x_i = turn(x_r, x_i, turned, bins, exists, REVERSE)
        store_complex(states + there * stride + channel[None, :], plane, x_r, x_i, inside)
    store_complex(last + batch * stride + channel, plane, z_r, z_i, lane < width)


def sweep(
    tokens: int, ends: Tensor, start: Tensor, turns: Tensor, fallen: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The states that enter every chunk and leave the last one.

    Args:
        tokens: T.
        ends: what each of the N chunks adds, (B, N, H, 2, F, d).
        start: the state that enters the first one, (B, H, 2, F, d).
        turns: by what angle each chunk turns, cosine and sine, (B, N, H, 2, F).
        fallen: what it leaves of a state, (B, N, H, F).
        reverse: from the last chunk to the first.
    """
    batch, heads, _, bins, width = start.shape
    states = torch.empty_like(ends)
    last = torch.empty_like(start)
    lanes = min(power_of_two(width), WARP)
    rows = min(power_of_two(ends.shape[1]), ROWS)
    grid = (batch * heads * bins * -(-width // lanes),)
    options = {"REVERSE": reverse, "LANES": lanes, "ROWS": rows, "num_warps": max(rows // 16, 1)}
    _carry[grid](ends, start, turns, fallen, states, last, tokens, heads, width, bins, **options)
    return states, last


def power_of_two(size: int) -> int:
    """The smallest that is no smaller than ``size``, which is at least 1."""
    return 1 << (size - 1).bit_length()
