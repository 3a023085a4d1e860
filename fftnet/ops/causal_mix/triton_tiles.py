"""Parts of the Triton kernels of causal mixing: a program's place in the work, complex numbers, scans.

A *program* is what CUDA calls a block of threads. It computes on tiles, arrays of tokens times channels that
its threads hold in registers: each thread all tokens of its channels. ``mask`` says which of a tile's
elements exist.

Triton knows no complex numbers. They come as two values, of which the imaginary one lies ``plane`` numbers
after the real one in memory; names end in ``_r`` and ``_i``.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 16
"""Tokens between two checkpoints of the state: what backward fits into the registers of a thread."""
ROWS = 64
"""Most chunks that the scan over the chunks handles at once."""
WARP = 32
"""Threads that run in lockstep, and channels a program is given a warp for."""
CHUNK = tl.constexpr(BLOCK)

# Sizes are not specialised: a load that is known to be aligned would be vectorised, and so spread one channel
# over several threads.
kernel: Any = triton.jit(do_not_specialize=["tokens", "heads", "width", "bins"])


@kernel
def load_complex(at, plane, mask):  # pyright: ignore
    """A complex tile; 0 outside of the mask."""
    return tl.load(at, mask, 0.0), tl.load(at + plane, mask, 0.0)


@kernel
def store_complex(at, plane, real, imaginary, mask):  # pyright: ignore
    """Write a complex tile inside the mask."""
    tl.store(at, real, mask)
    tl.store(at + plane, imaginary, mask)


@kernel
def _then(a_r, a_i, x_r, x_i, b_r, b_i, y_r, y_i):  # pyright: ignore
    # First z -> a z + x, then z -> b z + y: that is z -> (a b) z + (y + b x).
    return (
        a_r * b_r - a_i * b_i,
        a_r * b_i + a_i * b_r,
        y_r + b_r * x_r - b_i * x_i,
        y_i + b_r * x_i + b_i * x_r,
    )


@kernel
def scan(pole_r, pole_i, x_r, x_i):  # pyright: ignore
    """``z(n) = pole * z(n - 1) + x(n)`` along the first dimension, from z = 0."""
    zero = tl.zeros_like(x_r)
    _, _, z_r, z_i = tl.associative_scan((zero + pole_r, zero + pole_i, x_r, x_i), 0, _then)
    return z_r, z_i


@kernel
def sum_tile(x):  # pyright: ignore
    """The sum of all elements of a tile."""
    return tl.sum(tl.sum(x, 0), 0)


@kernel
def locate(tokens, heads, width, LANES: tl.constexpr):  # pyright: ignore
    """This program's place in the work: one chunk of time of up to LANES channels of one head of one row.

    Returns:
        The head; the chunk's number b * N + n; the offset of its first token in (B, T, H); how many tokens
        there are from there on; the tokens 0 .. CHUNK - 1 of the chunk; its channels of the head; their
        offsets from the chunk's first token, (CHUNK, LANES); and which of them are inside the tensor.
    """
    groups = tl.cdiv(width, LANES)
    count = tl.cdiv(tokens, CHUNK)
    item = tl.program_id(0)
    head = item // groups % heads
    block = item // groups // heads
    start = block % count * CHUNK
    row = ((block // count).to(tl.int64) * tokens + start) * heads
    n = tl.arange(0, CHUNK)
    lane = item % groups * LANES + tl.arange(0, LANES)
    tile = n[:, None] * (heads * width) + (head * width + lane)[None, :]
    inside = (n < tokens - start)[:, None] & (lane < width)[None, :]
    return head, block.to(tl.int64), row, tokens - start, n, lane, tile, inside


@kernel
def reach(table, n, length, heads, bins, head, k):  # pyright: ignore
    """``lambda ** age`` of every token of a chunk, (CHUNK, 1), with the age at the chunk's last token."""
    age = min(length, CHUNK) - 1 - n
    reach_r, reach_i = load_complex(table + ((age * heads + head) * bins + k) * 2, 1, age >= 0)
    return reach_r[:, None], reach_i[:, None]


@kernel
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
    """The state before every chunk and after the last, for one bin of one head: a scan over the chunks.

    In reverse: the gradient that enters every chunk from later ones, and the one before the first.
    """
    groups = tl.cdiv(width, LANES)
    count = tl.cdiv(tokens, CHUNK)
    item = tl.program_id(0)
    head = item // groups % heads
    k = item // groups // heads % bins
    batch = (item // groups // heads // bins).to(tl.int64)
    lane = item % groups * LANES + tl.arange(0, LANES)
    plane = heads * width
    stride = bins * 2 * heads * width
    channel = (k * 2 * heads + head) * width + lane
    whole = table + ((CHUNK * heads + head) * bins + k) * 2
    rest = table + (((tokens - (count - 1) * CHUNK) * heads + head) * bins + k) * 2
    first = batch * count + (count - 1 if REVERSE else 0)
    z_r, z_i = load_complex(start + batch * stride + channel, plane, lane < width)
    store_complex(states + first * stride + channel, plane, z_r, z_i, lane < width)
    for n0 in range(0, count, ROWS):
        n = n0 + tl.arange(0, ROWS)
        block = count - 1 - n if REVERSE else n
        after = block - 1 if REVERSE else block + 1
        # The last chunk may be shorter, so less time passes in it.
        short = (block == count - 1)[:, None]
        pole_r = tl.where(short, tl.load(rest), tl.load(whole))
        pole_i = tl.where(short, tl.load(rest + 1), tl.load(whole + 1))
        pole_i = -pole_i if REVERSE else pole_i
        inside = (n < count)[:, None] & (lane < width)[None, :]
        at = ends + (batch * count + block)[:, None] * stride + channel[None, :]
        x_r, x_i = load_complex(at, plane, inside)
        # What the rows before have left enters with the first row; the last row hands it on.
        new = (n == n0)[:, None]
        old = (n == min(n0 + ROWS, count) - 1)[:, None]
        x_r = tl.where(new, x_r + pole_r * z_r[None, :] - pole_i * z_i[None, :], x_r)
        x_i = tl.where(new, x_i + pole_r * z_i[None, :] + pole_i * z_r[None, :], x_i)
        x_r, x_i = scan(pole_r, pole_i, x_r, x_i)
        z_r = tl.sum(tl.where(old, x_r, 0.0), 0)
        z_i = tl.sum(tl.where(old, x_i, 0.0), 0)
        inside = ((after >= 0) & (after < count))[:, None] & (lane < width)[None, :]
        at = states + (batch * count + after)[:, None] * stride + channel[None, :]
        store_complex(at, plane, x_r, x_i, inside)
    store_complex(last + batch * stride + channel, plane, z_r, z_i, lane < width)


def program_width(width: int, most: int) -> tuple[int, dict[str, int]]:
    """How many programs share a head of ``width`` channels, and the options to launch them with."""
    lanes = min(1 << (width - 1).bit_length(), most)
    return -(-width // lanes), {"LANES": lanes, "num_warps": max(lanes // WARP, 1)}


def sweep(values: Tensor, ends: Tensor, start: Tensor, table: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """The states that enter every chunk and leave the last one, from ``ends``, which each chunk adds."""
    batch, bins, _, heads, width = start.shape
    states = torch.empty_like(ends)
    last = torch.empty_like(start)
    groups, options = program_width(width, WARP)
    rows = ROWS if ends.shape[1] > BLOCK else BLOCK
    options |= {"REVERSE": reverse, "ROWS": rows, "num_warps": rows // BLOCK}
    sizes = (*values.shape[1:], bins)
    _carry[(batch * bins * heads * groups,)](ends, start, table, states, last, *sizes, **options)
    return states, last
