"""Scan over the chunks of a row: the state before every chunk from the contribution of each."""

import torch
import triton.language as tl
from torch import Tensor

from fftnet.ops.gpu.tiles import CHUNK, kernel, load_complex, power_of_two, store_complex

ROWS = 64  # Most chunks that the scan over the chunks handles at once.
WARP = 32  # Threads that run in lockstep, and channels that a program of that scan handles.


@kernel
def _compose(a_re, a_im, x_re, x_im, b_re, b_im, y_re, y_im):  # pyright: ignore
    # First z -> a z + x, then z -> b z + y: that is z -> (a b) z + (y + b x).
    return (
        a_re * b_re - a_im * b_im,
        a_re * b_im + a_im * b_re,
        y_re + b_re * x_re - b_im * x_im,
        y_im + b_re * x_im + b_im * x_re,
    )


@kernel
def scan(pole_re, pole_im, x_re, x_im):  # pyright: ignore
    """``z(n) = pole(n) z(n - 1) + x(n)`` along the first dimension, from z = 0."""
    zero = tl.zeros_like(x_re)
    maps = (zero + pole_re, zero + pole_im, x_re, x_im)
    _, _, z_re, z_im = tl.associative_scan(maps, 0, _compose)
    return z_re, z_im


@kernel
def _rotate(x_re, x_im, rotation, plane, exists, REVERSE: tl.constexpr):  # pyright: ignore
    """Rotate a complex tile by a chunk's angle, or in reverse by its negative."""
    cosine, sine = load_complex(rotation, plane, exists)
    sine = -sine if REVERSE else sine
    return cosine * x_re - sine * x_im, sine * x_re + cosine * x_im


@kernel
def _carry(  # pyright: ignore
    ends,
    start,
    rotation,
    chunk_decay,
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
    """State before every chunk and after the last, for one bin of one head: a scan over the chunks.

    In reverse: the gradient that enters every chunk from later ones, rotated as the chunk's end is, and the
    one before the first.
    """
    groups = tl.cdiv(width, LANES)
    count = tl.cdiv(tokens, CHUNK)
    item = tl.program_id(0)
    lane = item % groups * LANES + tl.arange(0, LANES)
    k = item // groups % bins
    head = item // groups // bins % heads
    batch = (item // groups // bins // heads).to(tl.int64)
    # States are (B, N, H, 2, F, d): a real plane of F d numbers, then the imaginary one.
    plane = bins * width
    stride = heads * 2 * plane
    channel = (head * 2 * bins + k) * width + lane
    # z is the state that the chunks so far have reached.
    z_re, z_im = load_complex(start + batch * stride + channel, plane, lane < width)
    entry = batch * count + (count - 1 if REVERSE else 0)
    first_re = z_re
    first_im = z_im
    if REVERSE:
        entry_angle = rotation + (entry * heads + head) * 2 * bins + k
        first_re, first_im = _rotate(z_re, z_im, entry_angle, bins, True, REVERSE)
    store_complex(states + entry * stride + channel, plane, first_re, first_im, lane < width)
    for n0 in range(0, count, ROWS):
        n = n0 + tl.arange(0, ROWS)
        block = count - 1 - n if REVERSE else n
        after = block - 1 if REVERSE else block + 1
        exists = (n < count)[:, None]
        inside = exists & (lane < width)[None, :]
        here = (batch * count + block)[:, None]
        x_re, x_im = load_complex(ends + here * stride + channel[None, :], plane, inside)
        angle = rotation + (here * heads + head) * 2 * bins + k
        factor = tl.load(chunk_decay + (here * heads + head) * bins + k, exists, 0.0)
        # The pole of a whole chunk, exp(s mu) with the time s that passes in it.
        pole_re, pole_im = _rotate(factor, tl.zeros_like(factor), angle, bins, exists, REVERSE)
        if not REVERSE:
            x_re, x_im = _rotate(x_re, x_im, angle, bins, exists, REVERSE)
        # The state that the rows before have reached enters with the first row; the last row hands it on.
        new = (n == n0)[:, None]
        old = (n == min(n0 + ROWS, count) - 1)[:, None]
        x_re = tl.where(new, x_re + pole_re * z_re[None, :] - pole_im * z_im[None, :], x_re)
        x_im = tl.where(new, x_im + pole_re * z_im[None, :] + pole_im * z_re[None, :], x_im)
        x_re, x_im = scan(pole_re, pole_im, x_re, x_im)
        z_re = tl.sum(tl.where(old, x_re, 0.0), 0)
        z_im = tl.sum(tl.where(old, x_im, 0.0), 0)
        # Each result is the state before the following chunk, if there is one.
        exists = ((after >= 0) & (after < count))[:, None]
        there = (batch * count + after)[:, None]
        if REVERSE:
            angle = rotation + (there * heads + head) * 2 * bins + k
            x_re, x_im = _rotate(x_re, x_im, angle, bins, exists, REVERSE)
        at = states + there * stride + channel[None, :]
        store_complex(at, plane, x_re, x_im, exists & (lane < width)[None, :])
    store_complex(last + batch * stride + channel, plane, z_re, z_im, lane < width)


def sweep(
    tokens: int, ends: Tensor, start: Tensor, rotation: Tensor, chunk_decay: Tensor, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the states that enter every chunk and leave the last one.

    ``ends`` are the contributions of the chunks, (B, N, H, 2, F, d), and ``start`` is the state before them.
    ``rotation`` (B, N, H, 2, F) holds cosine and sine of each chunk's angle, ``chunk_decay`` is (B, N, H, F).
    """
    batch, heads, _, bins, width = start.shape
    states = torch.empty_like(ends)
    last = torch.empty_like(start)
    lanes = min(power_of_two(width), WARP)
    # 16 rows a warp keep a thread's part of the tile in its registers.
    size = min(power_of_two(ends.shape[1]), ROWS)
    grid = (batch * heads * bins * -(-width // lanes),)
    options = {"REVERSE": reverse, "LANES": lanes, "ROWS": size, "num_warps": max(size // 16, 1)}
    _carry[grid](ends, start, rotation, chunk_decay, states, last, tokens, heads, width, bins, **options)
    return states, last
