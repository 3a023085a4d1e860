"""The CPU backend of causal mixing: the recurrence, fused with filter, modReLU and read-out.

A work item is one head of one row of the batch. It walks over time in blocks, and within a block over groups
of channels and then over bins, so that spectrum, pole and sums of one bin stay in registers while the tokens
of the block stay in the cache. Backward recomputes the spectrum of a block from its checkpoint and walks the
block in reverse. The kernels are written in vectors, :mod:`fftnet.ops.cpu.vector`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.cpu.memory import fresh
from fftnet.ops.cpu.threads import GROUPS, jit, threads
from fftnet.ops.cpu.vector import choose, load, root, store, total
from fftnet.ops.dispatch import GROUP

BLOCK = 128
"""Tokens between two checkpoints of the state."""


@jit
def _forward(first, last, group, v, filter_, rows, floor, y, state, checkpoints):  # pyright: ignore
    (_, T, H, d), F, N = v.shape, filter_.shape[3], checkpoints.shape[1]
    D = H * d
    for b in range(first // H, (last + H - 1) // H):
        for n in range(N):
            for h in range(max(first - b * H, 0), min(last - b * H, H)):
                for c in range(0, d, len(group)):
                    for k in range(F):
                        r = h * F + k
                        lr, li, shift, cr, ci = rows[r, 0], rows[r, 1], rows[r, 2], rows[r, 3], rows[r, 4]
                        at = ((b * F + k) * 2 * H + h) * d + c
                        zr, zi = load(state, at, group), load(state, at + D, group)
                        saved = (((b * N + n) * F + k) * 2 * H + h) * d + c
                        store(checkpoints, saved, zr)
                        store(checkpoints, saved + D, zi)
                        for t in range(n * BLOCK, min((n + 1) * BLOCK, T)):
                            here, f = ((b * T + t) * H + h) * d + c, filter_[b, t, h, k]
                            zr, zi = lr * zr - li * zi + load(v, here, group), lr * zi + li * zr
                            magnitude = abs(f) * root(zr * zr + zi * zi)
                            raised = magnitude + shift
                            gain = (
                                f * choose(raised, 0, 0, raised) / choose(magnitude, floor, floor, magnitude)
                            )
                            out = gain * (cr * zr - ci * zi)
                            store(y, here, out if k == 0 else load(y, here, group) + out)
                        store(state, at, zr)
                        store(state, at + D, zi)


@jit
def _backward(  # pyright: ignore
    first, last, group, grad_y, v, filter_, rows, floor, checkpoints, grad_v, grad_filter, grad_state, sums
):
    (_, T, H, d), F, N, lanes = v.shape, filter_.shape[3], checkpoints.shape[1], len(group)
    D = H * d
    past = np.zeros((BLOCK + 1) * 2 * lanes, v.dtype)
    zero = load(past, 0, group)
    tiny = v.dtype.type(1e-15)
    for b in range(first // H, (last + H - 1) // H):
        for n in range(N - 1, -1, -1):
            t0, t1 = n * BLOCK, min((n + 1) * BLOCK, T)
            for h in range(max(first - b * H, 0), min(last - b * H, H)):
                for c in range(0, d, lanes):
                    for k in range(F):
                        r = h * F + k
                        lr, li, shift, cr, ci = rows[r, 0], rows[r, 1], rows[r, 2], rows[r, 3], rows[r, 4]
                        saved = (((b * N + n) * F + k) * 2 * H + h) * d + c
                        zr, zi = load(checkpoints, saved, group), load(checkpoints, saved + D, group)
                        for t in range(t0, t1):
                            store(past, (t - t0) * 2 * lanes, zr)
                            store(past, (t - t0) * 2 * lanes + lanes, zi)
                            x = load(v, ((b * T + t) * H + h) * d + c, group)
                            zr, zi = lr * zr - li * zi + x, lr * zi + li * zr
                        at = ((b * F + k) * 2 * H + h) * d + c
                        carry_r, carry_i = load(grad_state, at, group), load(grad_state, at + D, group)
                        sum_shift, sum_cr, sum_ci, sum_lr, sum_li = zero, zero, zero, zero, zero
                        for t in range(t1 - 1, t0 - 1, -1):
                            here, f = ((b * T + t) * H + h) * d + c, filter_[b, t, h, k]
                            g = load(grad_y, here, group)
                            modulus = root(zr * zr + zi * zi)
                            inverse = 1 / choose(modulus, tiny, tiny, modulus)
                            magnitude = abs(f) * modulus
                            raised = magnitude + shift
                            # share is 1 / max(magnitude, floor) where modReLU passes; bend is how much faster
                            # than gain the output grows along Z.
                            share = choose(floor, magnitude, inverse * (1 / abs(f)), 1 / floor)
                            share = choose(raised, 0, 0, share)
                            gain = raised * share
                            bend = choose(floor, magnitude, -shift, magnitude) * share
                            along = g * (cr * zr - ci * zi)
                            pull = g * gain * f
                            push = f * bend * along * inverse * inverse
                            sum_shift = sum_shift + f * share * along
                            sum_cr = sum_cr + pull * zr
                            sum_ci = sum_ci - pull * zi
                            slope = total(along * (gain + bend))
                            grad_filter[b, t, h, k] = slope if c == 0 else grad_filter[b, t, h, k] + slope
                            gr = carry_r + pull * cr + push * zr
                            gi = carry_i - pull * ci + push * zi
                            store(grad_v, here, gr if k == 0 else load(grad_v, here, group) + gr)
                            zr = load(past, (t - t0) * 2 * lanes, group)
                            zi = load(past, (t - t0) * 2 * lanes + lanes, group)
                            sum_lr = sum_lr + gr * zr + gi * zi
                            sum_li = sum_li + gi * zr - gr * zi
                            carry_r, carry_i = lr * gr + li * gi, lr * gi - li * gr
                        store(grad_state, at, carry_r)
                        store(grad_state, at + D, carry_i)
                        sums[b, r, 0] += total(sum_lr)
                        sums[b, r, 1] += total(sum_li)
                        sums[b, r, 2] += total(sum_shift)
                        sums[b, r, 3] += total(sum_cr)
                        sums[b, r, 4] += total(sum_ci)


def _run(kernel: Any, v: Tensor, filter_: Tensor, *arguments: Any) -> None:
    group = next(group for group in GROUPS if v.shape[3] % len(group) == 0)
    threads.run(kernel, v.shape[0] * v.shape[2], v.numel() * filter_.shape[3], group, *arguments)


def _pad(x: Tensor) -> Tensor:
    """Zero channels up to a whole group: they stay zero and add nothing to any gradient."""
    missing = -x.shape[-1] % GROUP
    return functional.pad(x, (0, missing)) if missing else x


def _rows(pole: Tensor, bias: Tensor, mixing: Tensor) -> np.ndarray:
    return torch.cat([torch.view_as_real(pole), bias[..., None], mixing], dim=-1).flatten(0, 1).numpy()


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
    width = v.shape[3]
    v, final = _pad(v), _pad(state).clone()
    y = fresh(v)
    checkpoints = v.new_empty(final.shape[0], -(-v.shape[1] // BLOCK), *final.shape[1:])
    rows = _rows(torch.polar(torch.exp(-decay), frequency), bias, mixing)
    inputs = (v.numpy(), filter_.numpy(), rows, rows.dtype.type(floor))
    _run(_forward, v, filter_, *inputs, y.numpy(), final.numpy(), checkpoints.numpy())
    y, final, checkpoints = (x[..., :width].contiguous() for x in (y, final, checkpoints))
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
    """See :mod:`fftnet.ops.causal_mix` for the contract of a backend."""
    width = v.shape[3]
    grad_y, v, checkpoints, grad_start = _pad(grad_y), _pad(v), _pad(checkpoints), _pad(grad_state).clone()
    pole = torch.polar(torch.exp(-decay), frequency)
    rows = _rows(pole, bias, mixing)
    inputs = (grad_y.numpy(), v.numpy(), filter_.numpy(), rows, rows.dtype.type(floor), checkpoints.numpy())
    grad_v, grad_filter = fresh(v), torch.empty_like(filter_)
    sums = v.new_zeros(v.shape[0], bias.numel(), 5)
    outputs = (grad_v.numpy(), grad_filter.numpy(), grad_start.numpy(), sums.numpy())
    _run(_backward, v, filter_, *inputs, *outputs)
    grad_lr, grad_li, grad_bias, grad_cr, grad_ci = sums.sum(dim=0).T.reshape(5, *bias.shape)
    grad_decay = -pole.real * grad_lr - pole.imag * grad_li
    grad_frequency = pole.real * grad_li - pole.imag * grad_lr
    grad_mixing = torch.stack([grad_cr, grad_ci], dim=-1)
    grad_v, grad_start = (x[..., :width].contiguous() for x in (grad_v, grad_start))
    return grad_v, grad_filter, grad_decay, grad_frequency, grad_bias.clone(), grad_mixing, grad_start
