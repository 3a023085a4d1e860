"""The CUDA backend of causal mixing: chunks of time in parallel, one program for a chunk of one head.

Forward: the end of every chunk from a zero state; a scan over the chunks, which gives the state before each;
then the outputs of every chunk from its state, with filter, modReLU and read-out fused, in one read of v and
the filter and one write of y. Backward: every chunk recomputes its spectrum and its adjoint as if no gradient
came from later chunks; a scan over the chunks in reverse; then what does come from later ones is added, which
needs no spectrum because it enters linearly.

A thread holds a whole chunk of its channel, so the scan along time is four multiply-adds an element in
registers, where a triangular product in full float32 takes two for every token of the chunk.

``table`` holds the powers of the poles, (BLOCK + 1, H, F, 2). State-like tensors, (..., F, 2, H, d), have
their imaginary plane H * d numbers after the real one. ``groups`` is the number of programs that share a
head.
"""

import torch
import triton.language as tl
from torch import Tensor

from fftnet.ops.causal_mix.eager import powers
from fftnet.ops.causal_mix.triton_tiles import (
    BLOCK,
    kernel,
    load_complex,
    locate,
    program_width,
    reach,
    scan,
    store_complex,
    sum_tile,
    sweep,
)

LANES = 128
"""Most channels that a program handles."""
TINY = tl.constexpr(1e-15)


@kernel
def _ends(values, table, ends, tokens, heads, width, bins, LANES: tl.constexpr):  # pyright: ignore
    """The part that a chunk adds to the state after it: ``sum_n lambda ** age(n) * v(n)``."""
    head, block, row, length, n, lane, tile, inside = locate(tokens, heads, width, LANES)
    x = tl.load(values + row * width + tile, inside, 0.0)
    for k in range(bins):
        reach_r, reach_i = reach(table, n, length, heads, bins, head, k)
        end = ends + ((block * bins + k) * 2 * heads + head) * width + lane
        store_complex(end, heads * width, tl.sum(reach_r * x, 0), tl.sum(reach_i * x, 0), lane < width)


@kernel
def _read_out(  # pyright: ignore
    values,
    filter_,
    bias,
    readout,
    table,
    checkpoints,
    mixed,
    tokens,
    heads,
    width,
    bins,
    EPS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The outputs of a chunk from the state before it: ``y(n) = Re sum_k C_k A_k(n)``."""
    head, block, row, length, n, lane, tile, inside = locate(tokens, heads, width, LANES)
    first = (n == 0)[:, None]
    x = tl.load(values + row * width + tile, inside, 0.0)
    total = tl.zeros_like(x)
    for k in range(bins):
        pole = head * bins + k
        pole_r, pole_i = load_complex(table + (heads * bins + pole) * 2, 1, True)
        readout_r, readout_i = load_complex(readout + pole * 2, 1, True)
        start = checkpoints + ((block * bins + k) * 2 * heads + head) * width + lane
        before_r, before_i = load_complex(start[None, :], heads * width, (lane < width)[None, :])
        # Z(n) = lambda Z(n-1) + v(n), with the state before the chunk put into its first token.
        x_r = tl.where(first, x + pole_r * before_r - pole_i * before_i, x)
        x_i = tl.where(first, pole_r * before_i + pole_i * before_r, 0.0)
        z_r, z_i = scan(pole_r, pole_i, x_r, x_i)
        # A = relu(|f Z| + bias) f Z / max(|f Z|, eps) = gain Z
        f = tl.load(filter_ + row * bins + n * (heads * bins) + pole, n < length, 0.0)[:, None]
        magnitude = tl.abs(f) * tl.sqrt(z_r * z_r + z_i * z_i)
        raised = magnitude + tl.load(bias + pole)
        raised = tl.where(raised > 0, raised, 0.0)
        gain = f * raised / tl.where(magnitude > EPS, magnitude, EPS)
        total += gain * (readout_r * z_r - readout_i * z_i)
    tl.store(mixed + row * width + tile, total, inside)


@kernel
def _adjoint(  # pyright: ignore
    grad_mixed,
    values,
    filter_,
    bias,
    readout,
    table,
    checkpoints,
    grad_values,
    grad_filter,
    ends,
    moments,
    sums,
    tokens,
    heads,
    width,
    bins,
    EPS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The gradients of a chunk, as if none came from later chunks; the arithmetic is that of the CPU kernel.

    Also ``ends``, the gradient that leaves the chunk for the one before, and ``moments``, by which a gradient
    from later chunks will add to that of the pole.
    """
    head, block, row, length, n, lane, tile, inside = locate(tokens, heads, width, LANES)
    groups = tl.cdiv(width, LANES)
    item = tl.program_id(0).to(tl.int64)
    first = (n == 0)[:, None]
    plane = heads * width
    x = tl.load(values + row * width + tile, inside, 0.0)
    grad = tl.load(grad_mixed + row * width + tile, inside, 0.0)
    earlier = tl.load(values + (row - heads) * width + tile, inside & (n > 0)[:, None], 0.0)
    total = tl.zeros_like(x)
    for k in range(bins):
        pole = head * bins + k
        pole_r, pole_i = load_complex(table + (heads * bins + pole) * 2, 1, True)
        readout_r, readout_i = load_complex(readout + pole * 2, 1, True)
        at = ((block * bins + k) * 2 * heads + head) * width + lane
        before_r, before_i = load_complex(checkpoints + at[None, :], plane, (lane < width)[None, :])
        # before(n) = Z(n-1), from which Z(n) follows.
        before_r, before_i = scan(
            pole_r, pole_i, tl.where(first, before_r, earlier), tl.where(first, before_i, 0.0)
        )
        z_r = x + pole_r * before_r - pole_i * before_i
        z_i = pole_r * before_i + pole_i * before_r
        f = tl.load(filter_ + row * bins + n * (heads * bins) + pole, n < length, 0.0)[:, None]
        modulus = tl.sqrt(z_r * z_r + z_i * z_i)
        magnitude = tl.abs(f) * modulus
        raised = magnitude + tl.load(bias + pole)
        normal = magnitude >= EPS
        share = tl.where(raised > 0, 1.0, 0.0) / tl.where(normal, magnitude, EPS)
        gain = raised * share
        slope = magnitude * share
        dot = grad * (readout_r * z_r - readout_i * z_i)
        inverse = 1.0 / tl.where(modulus > TINY, modulus, TINY)
        radial = dot * inverse
        bend = tl.where(normal, slope - gain, slope)
        part = grad_filter + row * groups * bins + ((n * heads + head) * groups + item % groups) * bins + k
        tl.store(part, tl.sum((gain + bend) * dot, 1), n < length)
        out = sums + (item * bins + k) * 5
        pull = grad * gain * f
        push = f * bend * radial * inverse
        tl.store(out, sum_tile(tl.where(f >= 0, slope, -slope) * radial))
        store_complex(out + 1, 1, sum_tile(pull * z_r), -sum_tile(pull * z_i), True)
        # The gradient of Z(n): its own and what later tokens of the chunk hand back, a scan in reverse.
        grad_r = tl.flip(pull * readout_r + push * z_r, 0)
        grad_i = tl.flip(push * z_i - pull * readout_i, 0)
        grad_r, grad_i = scan(pole_r, -pole_i, grad_r, grad_i)
        grad_r = tl.flip(grad_r, 0)
        grad_i = tl.flip(grad_i, 0)
        total += grad_r
        pole_sum_r = sum_tile(grad_r * before_r + grad_i * before_i)
        pole_sum_i = sum_tile(grad_i * before_r - grad_r * before_i)
        store_complex(out + 3, 1, pole_sum_r, pole_sum_i, True)
        grad_r = tl.sum(tl.where(first, grad_r, 0.0), 0)
        grad_i = tl.sum(tl.where(first, grad_i, 0.0), 0)
        end_r = pole_r * grad_r + pole_i * grad_i
        end_i = pole_r * grad_i - pole_i * grad_r
        store_complex(ends + at, plane, end_r, end_i, lane < width)
        reach_r, reach_i = reach(table, n, length, heads, bins, head, k)
        moment_r = tl.sum(reach_r * before_r - reach_i * before_i, 0)
        moment_i = tl.sum(reach_r * before_i + reach_i * before_r, 0)
        store_complex(moments + at, plane, moment_r, moment_i, lane < width)
    tl.store(grad_values + row * width + tile, total, inside)


@kernel
def _add_later(  # pyright: ignore
    table, later, moments, grad_values, sums, tokens, heads, width, bins, LANES: tl.constexpr
):
    """Add what the gradient from later chunks, ``later``, does to a chunk's values and poles."""
    head, block, row, length, n, lane, tile, inside = locate(tokens, heads, width, LANES)
    plane = heads * width
    total = tl.load(grad_values + row * width + tile, inside, 0.0)
    for k in range(bins):
        at = ((block * bins + k) * 2 * heads + head) * width + lane
        grad_r, grad_i = load_complex(later + at, plane, lane < width)
        moment_r, moment_i = load_complex(moments + at, plane, lane < width)
        reach_r, reach_i = reach(table, n, length, heads, bins, head, k)
        total += reach_r * grad_r[None, :] + reach_i * grad_i[None, :]
        out = sums + (tl.program_id(0).to(tl.int64) * bins + k) * 5 + 3
        sum_r, sum_i = load_complex(out, 1, True)
        sum_r += tl.sum(grad_r * moment_r + grad_i * moment_i, 0)
        sum_i += tl.sum(grad_i * moment_r - grad_r * moment_i, 0)
        store_complex(out, 1, sum_r, sum_i, True)
    tl.store(grad_values + row * width + tile, total, inside)


def _table(decay: Tensor, frequency: Tensor) -> Tensor:
    """``lambda^n`` for n = 0 .. BLOCK as (n, H, F, 2), with no error beyond that of its own dtype."""
    power = powers(decay.double(), frequency.double(), BLOCK + 1)
    return torch.view_as_real(power).to(decay.dtype)


def forward(
    values: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    readout: Tensor,
    state: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix`` for the contract of a backend."""
    batch, tokens, heads, width = values.shape
    count = -(-tokens // BLOCK)
    groups, options = program_width(width, LANES)
    grid = (batch * count * heads * groups,)
    sizes = (tokens, heads, width, state.shape[1])
    with torch.cuda.device_of(values):
        table = _table(decay, frequency)
        mixed = torch.empty_like(values)
        ends = values.new_empty(batch, count, *state.shape[1:])
        _ends[grid](values, table, ends, *sizes, **options)
        checkpoints, last = sweep(values, ends, state, table, reverse=False)
        inputs = (values, filter_, bias, readout, table, checkpoints)
        _read_out[grid](*inputs, mixed, *sizes, EPS=eps, **options)
    return mixed, last, checkpoints


def backward(
    values: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    readout: Tensor,
    checkpoints: Tensor,
    grad_mixed: Tensor,
    grad_state: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix`` for the contract of a backend."""
    batch, count, bins = checkpoints.shape[:3]
    _, tokens, heads, width = values.shape
    groups, options = program_width(width, LANES)
    grid = (batch * count * heads * groups,)
    sizes = (tokens, heads, width, bins)
    with torch.cuda.device_of(values):
        table = _table(decay, frequency)
        grad_values = torch.empty_like(values)
        ends = torch.empty_like(checkpoints)
        moments = torch.empty_like(checkpoints)
        # Programs that share a head each write sums of their own, which are added afterwards.
        parts = values.new_empty(batch, tokens, heads, groups, bins)
        sums = values.new_empty(batch * count, heads, groups, bins, 5)
        inputs = (grad_mixed, values, filter_, bias, readout, table, checkpoints)
        _adjoint[grid](*inputs, grad_values, parts, ends, moments, sums, *sizes, EPS=eps, **options)
        later, grad_start = sweep(values, ends, grad_state, table, reverse=True)
        _add_later[grid](table, later, moments, grad_values, sums, *sizes, **options)
    grad_bias, grad_readout_r, grad_readout_i, grad_pole_r, grad_pole_i = sums.sum(dim=(0, 2)).movedim(-1, 0)
    pole_r, pole_i = table[1].unbind(-1)
    grad_decay = -(pole_r * grad_pole_r + pole_i * grad_pole_i)
    grad_frequency = pole_r * grad_pole_i - pole_i * grad_pole_r
    grad_readout = torch.stack([grad_readout_r, grad_readout_i], dim=-1)
    return grad_values, parts.sum(3), grad_decay, grad_frequency, grad_bias, grad_readout, grad_start
