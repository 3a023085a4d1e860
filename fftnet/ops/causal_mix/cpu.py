"""The CPU backend of causal mixing: the recurrence, fused with filter, modReLU and read-out.

See ``fftnet.ops.cpu`` for how to read kernels; the equations are steps 1 and 3-5 of docs/maths.md, section 2.
A work item is one head of one row of the batch. It walks over time in blocks, and within a block over vectors
of channels and then over bins, so that spectrum, pole and sums of one bin stay in registers while the tokens
of the block stay in the cache. Backward recomputes the spectrum of a block from its checkpoint and walks the
block in reverse.

State, its gradient and checkpoints are (B, F, 2, H, d) and (B, N, F, 2, H, d), real and imaginary plane.
``constants`` (H, F, 5) holds pole (real, imaginary), bias of modReLU and read-out (real, imaginary).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.functions import TINY, modrelu_scale, modrelu_slopes
from fftnet.ops.cpu.memory import empty, padded
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, sqrt, store, sum_lanes, where

BLOCK = 128  # Tokens between two checkpoints of the state.


@jit
def _constants_of(constants, h, k):  # pyright: ignore
    row = constants[h, k]
    return row[0], row[1], row[2], row[3], row[4]


@jit
def _forward(first, last, lanes, values, filter_, constants, eps, mixed, state, checkpoints):  # pyright: ignore
    _, T, H, d = values.shape
    F = filter_.shape[3]
    for b in range(first // H, (last + H - 1) // H):
        # Blocks outside: the tokens of a block are read once for each bin, so they should stay in the cache.
        for n in range(checkpoints.shape[1]):
            for h in range(max(first - b * H, 0), min(last - b * H, H)):
                for c in range(0, d, len(lanes)):
                    for k in range(F):
                        pole_re, pole_im, bias, readout_re, readout_im = _constants_of(constants, h, k)
                        z_re = load(state, (b, k, 0, h, c), lanes)
                        z_im = load(state, (b, k, 1, h, c), lanes)
                        store(checkpoints, (b, n, k, 0, h, c), z_re)
                        store(checkpoints, (b, n, k, 1, h, c), z_im)
                        for t in range(n * BLOCK, min((n + 1) * BLOCK, T)):
                            f = filter_[b, t, h, k]
                            # Z(t) = lambda Z(t-1) + v(t); g is part of the filter.
                            new_re = pole_re * z_re - pole_im * z_im + load(values, (b, t, h, c), lanes)
                            z_im = pole_re * z_im + pole_im * z_re
                            z_re = new_re
                            # A = modReLU(f Z) = scale Z
                            magnitude = abs(f) * sqrt(z_re * z_re + z_im * z_im)
                            scale = f * modrelu_scale(magnitude, bias, eps)
                            # y(t) = Re sum_k C_k A_k(t): the first bin sets the sum that others add to.
                            y = scale * (readout_re * z_re - readout_im * z_im)
                            index = (b, t, h, c)
                            store(mixed, index, y if k == 0 else load(mixed, index, lanes) + y)
                        store(state, (b, k, 0, h, c), z_re)
                        store(state, (b, k, 1, h, c), z_im)


@jit
def _backward(first, last, lanes, inputs, saved, eps, grads):  # pyright: ignore
    values, filter_, constants = inputs
    grad_mixed, checkpoints = saved
    grad_values, grad_filter, grad_state, grad_constants = grads
    _, T, H, d = values.shape
    F = filter_.shape[3]
    # Z(t-1) of every token of a block, real and imaginary part: read in reverse by the second loop.
    past = np.zeros((BLOCK, 2, len(lanes)), values.dtype)
    zero = load(past, (0, 0, 0), lanes)
    for b in range(first // H, (last + H - 1) // H):
        for n in range(checkpoints.shape[1] - 1, -1, -1):
            t0 = n * BLOCK
            t1 = min(t0 + BLOCK, T)
            for h in range(max(first - b * H, 0), min(last - b * H, H)):
                for c in range(0, d, len(lanes)):
                    for k in range(F):
                        pole_re, pole_im, bias, readout_re, readout_im = _constants_of(constants, h, k)
                        z_re = load(checkpoints, (b, n, k, 0, h, c), lanes)
                        z_im = load(checkpoints, (b, n, k, 1, h, c), lanes)
                        # The spectrum of the block once more, from its checkpoint.
                        for t in range(t0, t1):
                            store(past, (t - t0, 0, 0), z_re)
                            store(past, (t - t0, 1, 0), z_im)
                            new_re = pole_re * z_re - pole_im * z_im + load(values, (b, t, h, c), lanes)
                            z_im = pole_re * z_im + pole_im * z_re
                            z_re = new_re
                        # The carry is the gradient of Z(t) that comes from later tokens.
                        carry_re = load(grad_state, (b, k, 0, h, c), lanes)
                        carry_im = load(grad_state, (b, k, 1, h, c), lanes)
                        # Sums over the tokens of the block, one a channel.
                        sum_bias = zero
                        sum_readout_re = zero
                        sum_readout_im = zero
                        sum_pole_re = zero
                        sum_pole_im = zero
                        for t in range(t1 - 1, t0 - 1, -1):
                            index = (b, t, h, c)
                            f = filter_[b, t, h, k]
                            grad = load(grad_mixed, index, lanes)
                            modulus = sqrt(z_re * z_re + z_im * z_im)
                            inverse = 1 / where(modulus <= TINY, TINY, modulus)
                            magnitude = abs(f) * modulus
                            # One division serves |Z| and |f Z|: the one by f is of numbers, not of vectors.
                            per_magnitude = inverse * (1 / abs(f))
                            share, scale, slope = modrelu_slopes(magnitude, per_magnitude, bias, eps)
                            # along: the gradient's component along Z, times |Z|.
                            along = grad * (readout_re * z_re - readout_im * z_im)
                            grad_scaled = grad * scale * f
                            grad_radial = f * slope * along * inverse * inverse
                            sum_bias = sum_bias + f * share * along
                            sum_readout_re = sum_readout_re + grad_scaled * z_re
                            sum_readout_im = sum_readout_im - grad_scaled * z_im
                            grad_f = sum_lanes(along * (scale + slope))
                            grad_filter[b, t, h, k] = grad_f if c == 0 else grad_filter[b, t, h, k] + grad_f
                            # The whole gradient of Z(t): of this token's output, and from later tokens. Its
                            # real part is that of v(t), to which the first bin gives the start value.
                            grad_re = carry_re + grad_scaled * readout_re + grad_radial * z_re
                            grad_im = carry_im - grad_scaled * readout_im + grad_radial * z_im
                            total = grad_re if k == 0 else load(grad_values, index, lanes) + grad_re
                            store(grad_values, index, total)
                            z_re = load(past, (t - t0, 0, 0), lanes)
                            z_im = load(past, (t - t0, 1, 0), lanes)
                            # Times conj(Z(t-1)) it is lambda's gradient, times conj(lambda) that of Z(t-1).
                            sum_pole_re = sum_pole_re + grad_re * z_re + grad_im * z_im
                            sum_pole_im = sum_pole_im + grad_im * z_re - grad_re * z_im
                            carry_re = pole_re * grad_re + pole_im * grad_im
                            carry_im = pole_re * grad_im - pole_im * grad_re
                        store(grad_state, (b, k, 0, h, c), carry_re)
                        store(grad_state, (b, k, 1, h, c), carry_im)
                        # Head h of row b belongs to one thread.
                        grad_constants[b, h, k, 0] += sum_lanes(sum_pole_re)
                        grad_constants[b, h, k, 1] += sum_lanes(sum_pole_im)
                        grad_constants[b, h, k, 2] += sum_lanes(sum_bias)
                        grad_constants[b, h, k, 3] += sum_lanes(sum_readout_re)
                        grad_constants[b, h, k, 4] += sum_lanes(sum_readout_im)


def _run(kernel: Any, values: Tensor, filter_: Tensor, *arguments: Any) -> None:
    items = values.shape[0] * values.shape[2]
    threads.run(kernel, items, values.numel() * filter_.shape[3], widest_lanes(values.shape[3]), *arguments)


def _constants(decay: Tensor, frequency: Tensor, bias: Tensor, readout: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pole (H, F), and the array that kernels read."""
    pole = torch.polar(torch.exp(-decay), frequency)
    return pole, torch.cat([torch.view_as_real(pole), bias[..., None], readout], dim=-1)


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    values, filter_, *parameters, state, eps = arguments
    width = values.shape[3]
    values = padded(values)
    final = padded(state).clone()
    mixed = empty(values)
    blocks = -(-values.shape[1] // BLOCK)
    checkpoints = values.new_empty(final.shape[0], blocks, *final.shape[1:])
    _, constants = _constants(*parameters)
    _run(_forward, values, filter_, values, filter_, constants, eps, mixed, final, checkpoints)
    return mixed[..., :width], final[..., :width], checkpoints[..., :width]


def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    values, filter_, *parameters, checkpoints, grad_mixed, grad_state, eps = arguments
    width = values.shape[3]
    values = padded(values)
    grad_start = padded(grad_state).clone()
    pole, constants = _constants(*parameters)
    grad_values = empty(values)
    grad_filter = torch.empty_like(filter_)
    # One sum a row of the batch, since rows are done by different threads.
    grad_constants = values.new_zeros(values.shape[0], *constants.shape)
    saved = (padded(grad_mixed), padded(checkpoints))
    grads = (grad_values, grad_filter, grad_start, grad_constants)
    _run(_backward, values, filter_, (values, filter_, constants), saved, eps, grads)
    grad_pole_re, grad_pole_im, grad_bias, *grad_readout = grad_constants.sum(dim=0).unbind(dim=-1)
    # lambda = exp(-decay + i frequency), so d lambda = lambda (-d decay + i d frequency).
    grad_decay = -pole.real * grad_pole_re - pole.imag * grad_pole_im
    grad_frequency = pole.real * grad_pole_im - pole.imag * grad_pole_re
    grad_parameters = (grad_decay, grad_frequency, grad_bias.clone(), torch.stack(grad_readout, dim=-1))
    return grad_values[..., :width], grad_filter, *grad_parameters, grad_start[..., :width]
