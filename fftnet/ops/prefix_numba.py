"""The CPU backend of causal mixing: the recurrence, fused with filter, modReLU and read-out in one pass.

A work item is one row of the batch and a few heads, up to ``LANES`` channels. It walks over time with its
spectrum in a small buffer, reads v and the filter once and writes y once. Backward recomputes the spectrum of
a block from its checkpoint and walks the block in reverse.

Every loop over channels touches one small buffer at constant offsets, which is what lets LLVM vectorise it
without run-time alias checks; constants are float32 so that nothing is promoted. Work items run on threads of
our own, as many as PyTorch uses, because Numba's thread layers are not safe to call from several threads.
"""

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu_threads import jit as _jit
from fftnet.ops.cpu_threads import threads as _threads

BLOCK = 64
"""Tokens between two checkpoints of the state."""
LANES = 64
"""Most channels that a work item handles at once."""

ZERO, ONE, TINY = np.float32(0), np.float32(1), np.float32(1e-15)
ZR, ZI, LR, LI, BIAS, CR, CI, FILTER = (n * LANES for n in range(8))
SUM_BIAS, SUM_CR, SUM_CI, SUM_LR, SUM_LI, GRAD_FILTER = (n * LANES for n in range(8, 14))
BIN = 14 * LANES
V, Y = 0, LANES


@_jit
def _advance(z, row, lanes):  # pyright: ignore
    for c in range(lanes):
        zr, zi = z[ZR + c], z[ZI + c]
        lr, li = z[LR + c], z[LI + c]
        z[ZR + c] = lr * zr - li * zi + row[V + c]
        z[ZI + c] = lr * zi + li * zr


@_jit
def _read_out(z, row, lanes, floor):  # pyright: ignore
    for c in range(lanes):
        zr, zi, f = z[ZR + c], z[ZI + c], z[FILTER + c]
        magnitude = abs(f) * np.sqrt(zr * zr + zi * zi)
        raised = magnitude + z[BIAS + c]
        raised = raised if raised > ZERO else ZERO
        gain = f * raised / (magnitude if magnitude > floor else floor)
        row[Y + c] += gain * (z[CR + c] * zr - z[CI + c] * zi)


@_jit
def _reverse(z, now, before, row, lanes, floor):  # pyright: ignore
    for c in range(lanes):
        zr, zi, f, grad_y = now[c], now[LANES + c], z[FILTER + c], row[V + c]
        modulus = np.sqrt(zr * zr + zi * zi)
        magnitude = abs(f) * modulus
        raised = magnitude + z[BIAS + c]
        normal = magnitude >= floor
        share = (ONE if raised > ZERO else ZERO) / (magnitude if normal else floor)
        gain, slope = raised * share, magnitude * share
        ar, ai = z[CR + c] * grad_y, -z[CI + c] * grad_y
        dot = ar * zr + ai * zi
        inverse = ONE / (modulus if modulus > TINY else TINY)
        radial = dot * inverse
        bend = slope - gain if normal else slope
        z[SUM_CR + c] += grad_y * gain * f * zr
        z[SUM_CI + c] -= grad_y * gain * f * zi
        z[SUM_BIAS + c] += slope * radial if f >= ZERO else -slope * radial
        z[GRAD_FILTER + c] = gain * dot + bend * dot
        gr = z[ZR + c] + f * (gain * ar + bend * radial * inverse * zr)
        gi = z[ZI + c] + f * (gain * ai + bend * radial * inverse * zi)
        row[Y + c] += gr
        br, bi = before[c], before[LANES + c]
        z[SUM_LR + c] += gr * br + gi * bi
        z[SUM_LI + c] += gi * br - gr * bi
        lr, li = z[LR + c], z[LI + c]
        z[ZR + c] = lr * gr + li * gi
        z[ZI + c] = lr * gi - li * gr


@_jit
def _load(z, constants, state, b, k, c0, lanes):  # pyright: ignore
    for n in range(5):
        for c in range(lanes):
            z[(2 + n) * LANES + c] = constants[n, k, c0 + c]
    for c in range(lanes):
        z[ZR + c] = state[b, k, 0, c0 + c]
        z[ZI + c] = state[b, k, 1, c0 + c]


@_jit
def _spread(z, filter_, b, t, k, c0, lanes, width):  # pyright: ignore
    start = 0
    while start < lanes:
        head = (c0 + start) // width
        stop = min((head + 1) * width - c0, lanes)
        value = filter_[b, t, head, k]
        for c in range(start, stop):
            z[FILTER + c] = value
        start = stop


@_jit
def _collect(z, grad_filter, b, t, k, c0, lanes, width):  # pyright: ignore
    start = 0
    while start < lanes:
        head = (c0 + start) // width
        stop = min((head + 1) * width - c0, lanes)
        total = z[GRAD_FILTER + start]
        for c in range(start + 1, stop):
            total += z[GRAD_FILTER + c]
        grad_filter[b, t, head, k] += total
        start = stop


@_jit
def _forward(first, last, group, v, filter_, constants, state, floor, y, final, checkpoints):  # pyright: ignore
    tokens, channels = v.shape[1], v.shape[2]
    bins = filter_.shape[3]
    width = channels // filter_.shape[2]
    groups = (channels + group - 1) // group
    spectrum = np.zeros((bins, BIN), v.dtype)
    row = np.zeros(2 * LANES, v.dtype)
    for item in range(first, last):
        b, start = item // groups, item % groups * group
        for c0 in range(start, min(start + group, channels), LANES):
            lanes = min(LANES, min(start + group, channels) - c0)
            for k in range(bins):
                _load(spectrum[k], constants, state, b, k, c0, lanes)
            for t in range(tokens):
                if t % BLOCK == 0:
                    for k in range(bins):
                        for c in range(lanes):
                            checkpoints[b, t // BLOCK, k, 0, c0 + c] = spectrum[k, ZR + c]
                            checkpoints[b, t // BLOCK, k, 1, c0 + c] = spectrum[k, ZI + c]
                for c in range(lanes):
                    row[V + c] = v[b, t, c0 + c]
                    row[Y + c] = ZERO
                for k in range(bins):
                    z = spectrum[k]
                    _spread(z, filter_, b, t, k, c0, lanes, width)
                    _advance(z, row, lanes)
                    _read_out(z, row, lanes, floor)
                for c in range(lanes):
                    y[b, t, c0 + c] = row[Y + c]
            for k in range(bins):
                for c in range(lanes):
                    final[b, k, 0, c0 + c] = spectrum[k, ZR + c]
                    final[b, k, 1, c0 + c] = spectrum[k, ZI + c]


@_jit
def _backward(  # pyright: ignore
    first,
    last,
    group,
    grad_y,
    grad_final,
    v,
    filter_,
    constants,
    checkpoints,
    floor,
    grad_v,
    grad_filter,
    sums,
    grad_state,
):
    tokens, channels = v.shape[1], v.shape[2]
    bins = filter_.shape[3]
    width = channels // filter_.shape[2]
    groups = (channels + group - 1) // group
    spectrum = np.zeros((bins, BIN), v.dtype)
    history = np.zeros((BLOCK + 1, bins, 2 * LANES), v.dtype)
    row = np.zeros(2 * LANES, v.dtype)
    for item in range(first, last):
        b, start = item // groups, item % groups * group
        for c0 in range(start, min(start + group, channels), LANES):
            lanes = min(LANES, min(start + group, channels) - c0)
            for k in range(bins):
                _load(spectrum[k], constants, grad_final, b, k, c0, lanes)
                spectrum[k, SUM_BIAS:] = ZERO
            for block in range((tokens - 1) // BLOCK, -1, -1):
                t0, t1 = block * BLOCK, min((block + 1) * BLOCK, tokens)
                for k in range(bins):
                    z, past = spectrum[k], history[0, k]
                    for c in range(lanes):
                        past[c] = checkpoints[b, block, k, 0, c0 + c]
                        past[LANES + c] = checkpoints[b, block, k, 1, c0 + c]
                for t in range(t0, t1):
                    for c in range(lanes):
                        row[V + c] = v[b, t, c0 + c]
                    for k in range(bins):
                        z, past, now = spectrum[k], history[t - t0, k], history[t - t0 + 1, k]
                        for c in range(lanes):
                            zr, zi, lr, li = past[c], past[LANES + c], z[LR + c], z[LI + c]
                            now[c] = lr * zr - li * zi + row[V + c]
                            now[LANES + c] = lr * zi + li * zr
                for t in range(t1 - 1, t0 - 1, -1):
                    for c in range(lanes):
                        row[V + c] = grad_y[b, t, c0 + c]
                        row[Y + c] = ZERO
                    for k in range(bins):
                        z = spectrum[k]
                        _spread(z, filter_, b, t, k, c0, lanes, width)
                        _reverse(z, history[t - t0 + 1, k], history[t - t0, k], row, lanes, floor)
                        _collect(z, grad_filter, b, t, k, c0, lanes, width)
                    for c in range(lanes):
                        grad_v[b, t, c0 + c] = row[Y + c]
            for k in range(bins):
                for c in range(lanes):
                    grad_state[b, k, 0, c0 + c] = spectrum[k, ZR + c]
                    grad_state[b, k, 1, c0 + c] = spectrum[k, ZI + c]
                    for n in range(5):
                        sums[b, n, k, c0 + c] = spectrum[k, SUM_BIAS + n * LANES + c]


def _group(batch: int, heads: int, width: int) -> int:
    """Channels of a work item: whole heads, as many as fit, but enough items for all threads."""
    together = max(LANES // width, 1)
    while together > 1 and batch * -(-heads // together) < torch.get_num_threads():
        together = -(-together // 2)
    return together * width


def _array(x: Tensor) -> np.ndarray:
    """A view with heads and channels flattened, the layout that the kernels walk."""
    return x.flatten(-2).numpy()


def _constants(decay: Tensor, frequency: Tensor, bias: Tensor, mixing: Tensor, width: int) -> np.ndarray:
    radius = torch.exp(-decay)
    rows = (
        radius * torch.cos(frequency),
        radius * torch.sin(frequency),
        bias,
        mixing[..., 0],
        mixing[..., 1],
    )
    return torch.stack(rows).transpose(1, 2).repeat_interleave(width, dim=2).numpy()


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
    """See :mod:`fftnet.ops.prefix` for the contract of a backend."""
    batch, tokens, heads, width = v.shape
    group = _group(batch, heads, width)
    y, final = torch.empty_like(v), torch.empty_like(state)
    checkpoints = v.new_empty(batch, -(-tokens // BLOCK), *state.shape[1:])
    _threads.run(
        _forward,
        batch * -(-heads * width // group),
        v.numel() * filter_.shape[3],
        group,
        _array(v),
        filter_.numpy(),
        _constants(decay, frequency, bias, mixing, width),
        _array(state),
        filter_.numpy().dtype.type(floor),
        _array(y),
        _array(final),
        _array(checkpoints),
    )
    return y, final, checkpoints


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
    """See :mod:`fftnet.ops.prefix` for the contract of a backend."""
    batch, _, heads, width = v.shape
    group = _group(batch, heads, width)
    grad_v, grad_filter, grad_start = (
        torch.empty_like(v),
        torch.zeros_like(filter_),
        torch.empty_like(grad_state),
    )
    sums = v.new_empty(batch, 5, filter_.shape[3], heads, width)
    _threads.run(
        _backward,
        batch * -(-heads * width // group),
        v.numel() * filter_.shape[3],
        group,
        _array(grad_y),
        _array(grad_state),
        _array(v),
        filter_.numpy(),
        _constants(decay, frequency, bias, mixing, width),
        _array(checkpoints),
        filter_.numpy().dtype.type(floor),
        _array(grad_v),
        grad_filter.numpy(),
        _array(sums),
        _array(grad_start),
    )
    grad_bias, grad_cr, grad_ci, grad_lr, grad_li = sums.sum(dim=(0, 4)).transpose(1, 2)
    radius, cosine, sine = torch.exp(-decay), torch.cos(frequency), torch.sin(frequency)
    grad_decay = -radius * (cosine * grad_lr + sine * grad_li)
    grad_frequency = radius * (cosine * grad_li - sine * grad_lr)
    grad_mixing = torch.stack([grad_cr, grad_ci], dim=-1)
    return grad_v, grad_filter, grad_decay, grad_frequency, grad_bias, grad_mixing, grad_start
