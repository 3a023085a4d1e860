"""Tiles of the Triton kernels: complex numbers, a program's place in the work, ages of tokens."""

from typing import Any

import triton
import triton.language as tl

BLOCK = 64
"""Tokens between two checkpoints of the state, which then take 2 F / BLOCK of the memory of the values."""
CHUNK = tl.constexpr(BLOCK)
STRETCH = tl.constexpr(16)  # Tokens of which each pair has a weight for every bin.
BINS = tl.constexpr(16)  # Bins that a program handles at once: the fewest that a matrix product takes.

# A kernel is compiled once for all lengths, not anew for those that are multiples of 16.
kernel: Any = triton.jit(do_not_specialize=["tokens"])


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least ``size`` >= 1."""
    return 1 << (size - 1).bit_length()


@kernel
def load_complex(at, plane, mask):  # pyright: ignore
    """Load a complex tile; 0 outside of the mask."""
    return tl.load(at, mask, 0.0), tl.load(at + plane, mask, 0.0)


@kernel
def store_complex(at, plane, re, im, mask):  # pyright: ignore
    """Store a complex tile inside the mask."""
    tl.store(at, re, mask)
    tl.store(at + plane, im, mask)


@kernel
def load_bins(planes, row, inside, k, bins):  # pyright: ignore
    """Load bins k of the tokens ``row`` from real and imaginary planes (B, T, H, 2, F)."""
    at = planes + row[:, None] * 2 * bins + k[None, :]
    return load_complex(at, bins, inside[:, None] & (k < bins)[None, :])


@kernel
def load_channels(values, row, inside, lane, width):  # pyright: ignore
    """Load channels ``lane`` of the tokens ``row`` from (B, T, H, d)."""
    mask = inside[:, None] & (lane < width)[None, :]
    return tl.load(values + row[:, None] * width + lane[None, :], mask, 0.0)


@kernel
def dot(a, b):  # pyright: ignore
    """Return a matrix product without rounding to shorter numbers."""
    # The default, TF32, has 10 bits of mantissa.
    return tl.dot(a, b, input_precision="ieee")


@kernel
def decay_over(age, decay):  # pyright: ignore
    """Decay factor ``exp(-age * decay)`` of each bin: (N,) ages and (BINS,) decays give (N, BINS)."""
    return tl.exp(-age[:, None] * decay[None, :])


@kernel
def locate(tokens, heads, parts):  # pyright: ignore
    """Return this program's place in the work: a part of one stretch of one head of one row of the batch.

    These are part; head; the row's first token in (B, T); the stretch's first token; chunk b * N + n.
    """
    item = tl.program_id(0)
    stretches = tl.cdiv(tokens, STRETCH)
    first = item // parts // heads % stretches * STRETCH
    # Offsets from the batch on may exceed 32 bits.
    batch = (item // parts // heads // stretches).to(tl.int64)
    block = batch * tl.cdiv(tokens, CHUNK) + first // CHUNK
    return item % parts, item // parts % heads, batch * tokens, first, block


@kernel
def rows(first, origin, head, tokens, heads):  # pyright: ignore
    """Return the offsets of a stretch's tokens in (B, T, H), (STRETCH,), and the mask of those that exist."""
    n = first + tl.arange(0, STRETCH)
    return (origin + n) * heads + head, n < tokens


@kernel
def earlier(first, tokens, REVERSE: tl.constexpr):  # pyright: ignore
    """Return the range of tokens that come before a stretch in its chunk."""
    # In reverse they lie behind it, up to the end of the chunk or of the row.
    chunk = first // CHUNK * CHUNK
    begin = first + STRETCH if REVERSE else chunk
    end = min(chunk + CHUNK, tokens) if REVERSE else first
    return begin, end


@kernel
def since_chunk(time, row, inside, first, origin, head, tokens, heads, REVERSE: tl.constexpr):  # pyright: ignore
    """Return the time from the chunk's beginning to each token of a stretch, (STRETCH,)."""
    passed = tl.load(time + row, inside, 0.0)
    # In reverse the beginning is the chunk's last token, which is the row's last in a short chunk.
    if REVERSE:
        last = min(first // CHUNK * CHUNK + CHUNK, tokens) - 1
        passed = tl.where(inside, tl.load(time + (origin + last) * heads + head) - passed, 0.0)
    return passed


@kernel
def within(time, row, inside, REVERSE: tl.constexpr):  # pyright: ignore
    """Return the time from token j of a stretch to token n, (STRETCH, STRETCH), and the mask of j <= n."""
    passed = tl.load(time + row, inside, 0.0)
    n = tl.arange(0, STRETCH)
    pair = n[:, None] <= n[None, :] if REVERSE else n[:, None] >= n[None, :]
    pair = pair & inside[:, None] & inside[None, :]
    between = passed[:, None] - passed[None, :]
    # 0 outside of the mask, so that no exponent is positive.
    return tl.where(pair, -between if REVERSE else between, 0.0), pair


@kernel
def across(time, row, inside, before_row, before_inside, REVERSE: tl.constexpr):  # pyright: ignore
    """Return the time from an edge between two stretches to the tokens of one, and from the other's to it.

    Two tokens are as far apart as both are from the edge between them, so a product of matrices does for the
    two stretches. Within one stretch no edge lies between every two tokens.
    """
    passed = tl.load(time + row, inside, 0.0)
    before = tl.load(time + before_row, before_inside, 0.0)
    edge = tl.max(passed, 0) if REVERSE else tl.max(before, 0)
    # Both are at least 0, so that no exponent is positive.
    since = edge - passed if REVERSE else passed - edge
    until = before - edge if REVERSE else edge - before
    return tl.where(inside, since, 0.0), tl.where(before_inside, until, 0.0)
