"""The CPU kernels of the addresses: one pass forward, one pass backward, vectors of bins.

See ``fftnet.ops.cpu`` for how to read kernels. Keys and filters have nothing in common, hence a kernel for
each. A work item is SPAN tokens with all of their heads, counted over the rows of the batch; the gradients of
what all tokens share are one sum an item, and so the same on any number of threads. Backward computes sizes,
tanh and modReLU again.

Offsets, for bin k of head h: ``(n * H + h) * 2 F + k`` in a token's keys and filters, with the imaginary part
F numbers after it; the same without n in what all tokens share; ``h * F + k`` in bias and gain. The sums hold
three rows of F numbers for each head: the base's real and imaginary part, and gain or bias.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import tanh
from fftnet.ops.cpu.memory import empty, lent
from fftnet.ops.cpu.norm import SPAN, add, divide_back, inverse_size, split
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, sqrt, store, where
from fftnet.ops.numerics import NORM_EPS

TINY = 1e-15
"""Magnitude below which a number has no direction, so that nothing is divided by 0."""


@jit
def _keys(first, last, lanes, vectors, raw, base, gain, key):  # pyright: ignore
    B, T, H = raw.shape[:3]
    F = len(lanes) * len(vectors)
    for n in range(first * SPAN, min(last * SPAN, B * T)):
        for h in range(H):
            token = (n * H + h) * 2 * F
            inverse = inverse_size(raw, token, F, NORM_EPS, lanes, vectors + vectors)
            for k in range(0, F, len(lanes)):
                factor = load(gain, h * F + k, lanes)
                for part in range(k, 2 * F, F):
                    x = load(base, h * 2 * F + part, lanes) + inverse * load(raw, token + part, lanes)
                    store(key, token + part, factor * x)


@jit
def _keys_back(first, last, lanes, vectors, grad, raw, base, gain, grad_raw, sums):  # pyright: ignore
    B, T, H = raw.shape[:3]
    F = len(lanes) * len(vectors)
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, B * T)):
            for h in range(H):
                token = (n * H + h) * 2 * F
                total = (item * H + h) * 3 * F
                inverse = inverse_size(raw, token, F, NORM_EPS, lanes, vectors + vectors)
                for k in range(0, F, len(lanes)):
                    factor = load(gain, h * F + k, lanes)
                    for part in range(k, 2 * F, F):
                        x = load(base, h * 2 * F + part, lanes) + inverse * load(raw, token + part, lanes)
                        pull = load(grad, token + part, lanes)
                        add(sums, total + 2 * F + k, pull * x, lanes)
                        pull = factor * pull
                        add(sums, total + part, pull, lanes)
                        store(grad_raw, token + part, pull)
                divide_back(grad_raw, raw, token, F, inverse, lanes, vectors + vectors)


@jit
def _filters(first, last, lanes, vectors, raw, modulation, base, bias, eps, filter_):  # pyright: ignore
    B, T, H = raw.shape[:3]
    F = len(lanes) * len(vectors)
    for n in range(first * SPAN, min(last * SPAN, B * T)):
        for h in range(H):
            token = (n * H + h) * 2 * F
            inverse = inverse_size(raw, token, F, NORM_EPS, lanes, vectors + vectors)
            for k in range(0, F, len(lanes)):
                at = token + k
                shared = h * 2 * F + k
                u_r = load(base, shared, lanes) + inverse * load(raw, at, lanes)
                u_r = u_r + tanh(load(modulation, at, lanes))
                u_i = load(base, shared + F, lanes) + inverse * load(raw, at + F, lanes)
                u_i = u_i + tanh(load(modulation, at + F, lanes))
                magnitude = sqrt(u_r * u_r + u_i * u_i)
                raised = magnitude + load(bias, h * F + k, lanes)
                scale = where(raised <= 0, 0, raised) / where(magnitude <= eps, eps, magnitude)
                store(filter_, at, scale * u_r)
                store(filter_, at + F, scale * u_i)


@jit
def _filters_back(  # pyright: ignore
    first, last, lanes, vectors, grad, raw, modulation, base, bias, eps, grad_raw, grad_modulation, sums
):
    B, T, H = raw.shape[:3]
    F = len(lanes) * len(vectors)
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, B * T)):
            for h in range(H):
                token = (n * H + h) * 2 * F
                total = (item * H + h) * 3 * F
                inverse = inverse_size(raw, token, F, NORM_EPS, lanes, vectors + vectors)
                for k in range(0, F, len(lanes)):
                    at = token + k
                    shared = h * 2 * F + k
                    tanh_r = tanh(load(modulation, at, lanes))
                    tanh_i = tanh(load(modulation, at + F, lanes))
                    u_r = load(base, shared, lanes) + inverse * load(raw, at, lanes) + tanh_r
                    u_i = load(base, shared + F, lanes) + inverse * load(raw, at + F, lanes) + tanh_i
                    magnitude = sqrt(u_r * u_r + u_i * u_i)
                    shift = load(bias, h * F + k, lanes)
                    raised = magnitude + shift
                    # share = 1 / max(|u|, eps) where modReLU passes, else 0; bend is by how much faster than
                    # raised * share * |u| the output grows along u.
                    per_magnitude = 1 / where(magnitude <= TINY, TINY, magnitude)
                    share = where(eps <= magnitude, per_magnitude, 1 / eps)
                    share = where(raised <= 0, 0, share)
                    scale = raised * share
                    bend = where(eps <= magnitude, 0 - shift, magnitude) * share
                    grad_r = load(grad, at, lanes)
                    grad_i = load(grad, at + F, lanes)
                    along = grad_r * u_r + grad_i * u_i
                    push = bend * along * per_magnitude * per_magnitude
                    grad_r = scale * grad_r + push * u_r
                    grad_i = scale * grad_i + push * u_i
                    add(sums, total + k, grad_r, lanes)
                    add(sums, total + F + k, grad_i, lanes)
                    add(sums, total + 2 * F + k, share * along, lanes)
                    store(grad_raw, at, grad_r)
                    store(grad_raw, at + F, grad_i)
                    store(grad_modulation, at, grad_r * (1 - tanh_r * tanh_r))
                    store(grad_modulation, at + F, grad_i * (1 - tanh_i * tanh_i))
                divide_back(grad_raw, raw, token, F, inverse, lanes, vectors + vectors)


def _items(raw_key: Tensor) -> int:
    return -(-raw_key.shape[0] * raw_key.shape[1] // SPAN)


def _run(kernel: Any, like: Tensor, *arguments: Any) -> None:
    """Tensors among the arguments as arrays, numbers in their dtype, so that nothing becomes wider."""
    narrow = like.numpy().dtype.type
    arrays = (x.numpy() if isinstance(x, Tensor) else narrow(x) for x in arguments)
    threads.run(kernel, _items(like), like.numel(), *split(like.shape[4]), *arrays)


def forward(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.addresses`` for the contract of a backend."""
    base_key, base_filter, bias, gain = lent(base_key, base_filter, bias, gain)
    key = empty(raw_key)
    filter_ = empty(raw_key)
    _run(_keys, raw_key, raw_key, base_key, gain, key)
    _run(_filters, raw_key, raw_filter, modulation, base_filter, bias, eps, filter_)
    return key, filter_


def backward(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    grad_key: Tensor,
    grad_filter: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.addresses`` for the contract of a backend."""
    base_key, base_filter, bias, gain = lent(base_key, base_filter, bias, gain)
    grad_raw_key = empty(raw_key)
    grad_raw_filter = empty(raw_key)
    grad_modulation = empty(raw_key)
    _, _, heads, _, bins = raw_key.shape
    key_sums = raw_key.new_zeros(_items(raw_key), heads, 3, bins)
    filter_sums = torch.zeros_like(key_sums)
    _run(_keys_back, raw_key, grad_key, raw_key, base_key, gain, grad_raw_key, key_sums)
    inputs = (grad_filter, raw_filter, modulation, base_filter, bias, eps)
    _run(_filters_back, raw_key, *inputs, grad_raw_filter, grad_modulation, filter_sums)
    grad_base_key, grad_gain = key_sums.sum(dim=0).split([2, 1], dim=1)
    grad_base_filter, grad_bias = filter_sums.sum(dim=0).split([2, 1], dim=1)
    return (
        grad_raw_key,
        grad_raw_filter,
        grad_modulation,
        grad_base_key.clone(),
        grad_base_filter.clone(),
        grad_bias[:, 0].clone(),
        grad_gain[:, 0].clone(),
    )
