"""The CPU backend of causal mixing: the recurrence, fused with filter, modReLU and read-out.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is one head of one row of the batch. It walks
over time in blocks, and within a block over vectors of channels and then over bins, so that spectrum, pole
and sums of one bin stay in registers while the tokens of the block stay in the cache. Backward recomputes the
spectrum of a block from its checkpoint and walks the block in reverse.

Offsets, with D = H * d and a vector that begins at channel c of head h:

* values, (B, T, H, d): ``((b * T + t) * H + h) * d + c``;
* state, (B, F, 2, H, d): ``((b * F + k) * 2 * H + h) * d + c``, and the imaginary part D numbers after it;
* checkpoints, (B, N, F, 2, H, d): the same with ``b * N + n`` in place of b.

``constants`` holds five numbers for each head and bin, row ``h * F + k``: the pole's real and imaginary part,
modReLU's bias, the read-out's real and imaginary part.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.memory import empty, padded
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, sqrt, store, sum_lanes, where

BLOCK = 128
"""Tokens between two checkpoints of the state."""


@jit
def _forward(first, last, lanes, values, filter_, constants, eps, mixed, state, checkpoints):  # pyright: ignore
    _, T, H, d = values.shape
    F = filter_.shape[3]
    N = checkpoints.shape[1]
    D = H * d
    for b in range(first // H, (last + H - 1) // H):
        for n in range(N):
            for h in range(max(first - b * H, 0), min(last - b * H, H)):
                for c in range(0, d, len(lanes)):
                    for k in range(F):
                        r = h * F + k
                        pole_r = constants[r, 0]
                        pole_i = constants[r, 1]
                        bias = constants[r, 2]
                        readout_r = constants[r, 3]
                        readout_i = constants[r, 4]
                        carried = ((b * F + k) * 2 * H + h) * d + c
                        saved = (((b * N + n) * F + k) * 2 * H + h) * d + c
                        z_r = load(state, carried, lanes)
                        z_i = load(state, carried + D, lanes)
                        store(checkpoints, saved, z_r)
                        store(checkpoints, saved + D, z_i)
                        for t in range(n * BLOCK, min((n + 1) * BLOCK, T)):
                            here = ((b * T + t) * H + h) * d + c
                            f = filter_[b, t, h, k]
                            # Z(t) = lambda Z(t-1) + v(t)
                            new_r = pole_r * z_r - pole_i * z_i + load(values, here, lanes)
                            z_i = pole_r * z_i + pole_i * z_r
                            z_r = new_r
                            # A = relu(|f Z| + bias) f Z / max(|f Z|, eps) = gain Z
                            magnitude = abs(f) * sqrt(z_r * z_r + z_i * z_i)
                            raised = magnitude + bias
                            raised = where(raised <= 0, 0, raised)
                            gain = f * raised / where(magnitude <= eps, eps, magnitude)
                            # y(t) = Re sum_k C_k A_k(t): the first bin sets what the others add to.
                            out = gain * (readout_r * z_r - readout_i * z_i)
                            store(mixed, here, out if k == 0 else load(mixed, here, lanes) + out)
                        store(state, carried, z_r)
                        store(state, carried + D, z_i)


@jit
def _backward(  # pyright: ignore
    first,
    last,
    lanes,
    grad_mixed,
    values,
    filter_,
    constants,
    eps,
    checkpoints,
    grad_values,
    grad_filter,
    grad_state,
    grad_constants,
):
    _, T, H, d = values.shape
    F = filter_.shape[3]
    N = checkpoints.shape[1]
    D = H * d
    width = len(lanes)
    past = np.zeros(
        (BLOCK + 1) * 2 * width, values.dtype
    )  # Z(t-1) of every token of a block, real, imaginary
    zero = load(past, 0, lanes)
    tiny = values.dtype.type(1e-15)
    for b in range(first // H, (last + H - 1) // H):
        for n in range(N - 1, -1, -1):
            t0 = n * BLOCK
            t1 = min((n + 1) * BLOCK, T)
            for h in range(max(first - b * H, 0), min(last - b * H, H)):
                for c in range(0, d, width):
                    for k in range(F):
                        r = h * F + k
                        pole_r = constants[r, 0]
                        pole_i = constants[r, 1]
                        bias = constants[r, 2]
                        readout_r = constants[r, 3]
                        readout_i = constants[r, 4]
                        # The spectrum of the block once more, from its checkpoint.
                        saved = (((b * N + n) * F + k) * 2 * H + h) * d + c
                        z_r = load(checkpoints, saved, lanes)
                        z_i = load(checkpoints, saved + D, lanes)
                        for t in range(t0, t1):
                            store(past, (t - t0) * 2 * width, z_r)
                            store(past, (t - t0) * 2 * width + width, z_i)
                            v = load(values, ((b * T + t) * H + h) * d + c, lanes)
                            new_r = pole_r * z_r - pole_i * z_i + v
                            z_i = pole_r * z_i + pole_i * z_r
                            z_r = new_r
                        # carry: the gradient of Z(t) that comes from later tokens.
                        carried = ((b * F + k) * 2 * H + h) * d + c
                        carry_r = load(grad_state, carried, lanes)
                        carry_i = load(grad_state, carried + D, lanes)
                        sum_bias = zero
                        sum_readout_r = zero
                        sum_readout_i = zero
                        sum_pole_r = zero
                        sum_pole_i = zero
                        for t in range(t1 - 1, t0 - 1, -1):
                            here = ((b * T + t) * H + h) * d + c
                            f = filter_[b, t, h, k]
                            grad = load(grad_mixed, here, lanes)
                            modulus = sqrt(z_r * z_r + z_i * z_i)
                            inverse = 1 / where(modulus <= tiny, tiny, modulus)
                            magnitude = abs(f) * modulus
                            raised = magnitude + bias
                            # share = 1 / max(magnitude, eps) where modReLU passes, else 0;
                            # gain = raised * share, as in forward; bend is by how much faster than gain * |Z|
                            # the output grows along Z.
                            share = where(eps <= magnitude, inverse * (1 / abs(f)), 1 / eps)
                            share = where(raised <= 0, 0, share)
                            gain = raised * share
                            bend = where(eps <= magnitude, -bias, magnitude) * share
                            # along: the gradient's component along Z, times |Z|.
                            along = grad * (readout_r * z_r - readout_i * z_i)
                            pull = grad * gain * f
                            push = f * bend * along * inverse * inverse
                            sum_bias = sum_bias + f * share * along
                            sum_readout_r = sum_readout_r + pull * z_r
                            sum_readout_i = sum_readout_i - pull * z_i
                            slope = sum_lanes(along * (gain + bend))
                            grad_filter[b, t, h, k] = slope if c == 0 else grad_filter[b, t, h, k] + slope
                            # The whole gradient of Z(t): of this token's output, and from later ones. It is
                            # also that of v(t), which is added to the real part.
                            grad_r = carry_r + pull * readout_r + push * z_r
                            grad_i = carry_i - pull * readout_i + push * z_i
                            store(
                                grad_values,
                                here,
                                grad_r if k == 0 else load(grad_values, here, lanes) + grad_r,
                            )
                            z_r = load(past, (t - t0) * 2 * width, lanes)
                            z_i = load(past, (t - t0) * 2 * width + width, lanes)
                            # Times conj(Z(t-1)) it is lambda's gradient, times conj(lambda) that of Z(t-1).
                            sum_pole_r = sum_pole_r + grad_r * z_r + grad_i * z_i
                            sum_pole_i = sum_pole_i + grad_i * z_r - grad_r * z_i
                            carry_r = pole_r * grad_r + pole_i * grad_i
                            carry_i = pole_r * grad_i - pole_i * grad_r
                        store(grad_state, carried, carry_r)
                        store(grad_state, carried + D, carry_i)
                        grad_constants[b, r, 0] += sum_lanes(sum_pole_r)
                        grad_constants[b, r, 1] += sum_lanes(sum_pole_i)
                        grad_constants[b, r, 2] += sum_lanes(sum_bias)
                        grad_constants[b, r, 3] += sum_lanes(sum_readout_r)
                        grad_constants[b, r, 4] += sum_lanes(sum_readout_i)


def _run(kernel: Any, values: Tensor, filter_: Tensor, *arguments: Any) -> None:
    items = values.shape[0] * values.shape[2]
    threads.run(kernel, items, values.numel() * filter_.shape[3], widest_lanes(values.shape[3]), *arguments)


def _pole(decay: Tensor, frequency: Tensor) -> Tensor:
    return torch.polar(torch.exp(-decay), frequency)


def _constants(pole: Tensor, bias: Tensor, readout: Tensor) -> np.ndarray:
    columns = [torch.view_as_real(pole), bias[..., None], readout]
    return torch.cat(columns, dim=-1).flatten(0, 1).numpy()


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
    width = values.shape[3]
    values = padded(values)
    final = padded(state).clone()
    mixed = empty(values)
    blocks = -(-values.shape[1] // BLOCK)
    checkpoints = values.new_empty(final.shape[0], blocks, *final.shape[1:])
    constants = _constants(_pole(decay, frequency), bias, readout)
    inputs = (values.numpy(), filter_.numpy(), constants, constants.dtype.type(eps))
    _run(_forward, values, filter_, *inputs, mixed.numpy(), final.numpy(), checkpoints.numpy())
    mixed, final, checkpoints = (x[..., :width].contiguous() for x in (mixed, final, checkpoints))
    return mixed, final, checkpoints


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
    width = values.shape[3]
    values = padded(values)
    grad_start = padded(grad_state).clone()
    pole = _pole(decay, frequency)
    constants = _constants(pole, bias, readout)
    inputs = (padded(grad_mixed).numpy(), values.numpy(), filter_.numpy(), constants)
    saved = (constants.dtype.type(eps), padded(checkpoints).numpy())
    grad_values = empty(values)
    grad_filter = torch.empty_like(filter_)
    # One sum a row of the batch, since rows are done by different threads.
    grad_constants = values.new_zeros(values.shape[0], constants.shape[0], 5)
    outputs = (grad_values.numpy(), grad_filter.numpy(), grad_start.numpy(), grad_constants.numpy())
    _run(_backward, values, filter_, *inputs, *saved, *outputs)
    sums = grad_constants.sum(dim=0).T.reshape(5, *bias.shape)
    grad_pole_r, grad_pole_i, grad_bias, grad_readout_r, grad_readout_i = sums
    grad_decay = -pole.real * grad_pole_r - pole.imag * grad_pole_i
    grad_frequency = pole.real * grad_pole_i - pole.imag * grad_pole_r
    grad_readout = torch.stack([grad_readout_r, grad_readout_i], dim=-1)
    grad_values, grad_start = (x[..., :width].contiguous() for x in (grad_values, grad_start))
    return grad_values, grad_filter, grad_decay, grad_frequency, grad_bias.clone(), grad_readout, grad_start
