"""The CPU kernels of the addresses: one pass forward, one pass backward, vectors of bins.

See ``fftnet.ops.cpu`` for how to read kernels. A work item is SPAN tokens with all of their heads, counted
over the rows of the batch; the gradients of what all tokens share are one sum an item, and so the same on any
number of threads. Backward computes sizes, tanh and modReLU again.

Offsets, for bin k of head h: ``(n * H + h) * 2 F + k`` in a token's keys and filters, with the imaginary part
F numbers after it; the same without n in what all tokens share; ``h * F + k`` in bias and gain. The sums hold
six rows of F numbers for each head: base key, real and imaginary, base filter likewise, bias and gain.
"""

from typing import Any

from torch import Tensor

from fftnet.ops.addresses.torch import NORM_EPS
from fftnet.ops.cpu.compile import jit, widest_lanes
from fftnet.ops.cpu.functions import tanh
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.norm import SPAN, add, divide_back, inverse_size
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, sqrt, store, where

TINY = 1e-15
"""Magnitude below which a number has no direction, so that nothing is divided by 0."""


@jit
def _forward(  # pyright: ignore
    first,
    last,
    lanes,
    raw_key,
    raw_filter,
    modulation,
    base_key,
    base_filter,
    bias,
    gain,
    eps,
    key,
    filter_,
):
    B, T, H, _, F = raw_key.shape
    for n in range(first * SPAN, min(last * SPAN, B * T)):
        for h in range(H):
            head = (n * H + h) * 2 * F
            per_key = inverse_size(raw_key, head, 2 * F, F, NORM_EPS, lanes)
            per_filter = inverse_size(raw_filter, head, 2 * F, F, NORM_EPS, lanes)
            for k in range(0, F, len(lanes)):
                at = head + k
                base = h * 2 * F + k
                shared = h * F + k
                g = load(gain, shared, lanes)
                store(key, at, g * (load(base_key, base, lanes) + per_key * load(raw_key, at, lanes)))
                key_i = load(base_key, base + F, lanes) + per_key * load(raw_key, at + F, lanes)
                store(key, at + F, g * key_i)
                u_r = load(base_filter, base, lanes) + tanh(load(modulation, at, lanes))
                u_r = u_r + per_filter * load(raw_filter, at, lanes)
                u_i = load(base_filter, base + F, lanes) + tanh(load(modulation, at + F, lanes))
                u_i = u_i + per_filter * load(raw_filter, at + F, lanes)
                magnitude = sqrt(u_r * u_r + u_i * u_i)
                raised = magnitude + load(bias, shared, lanes)
                scale = where(raised <= 0, 0, raised) / where(magnitude <= eps, eps, magnitude)
                store(filter_, at, scale * u_r)
                store(filter_, at + F, scale * u_i)


@jit
def _backward(  # pyright: ignore
    first,
    last,
    lanes,
    grad_key,
    grad_filter,
    raw_key,
    raw_filter,
    modulation,
    base_key,
    base_filter,
    bias,
    gain,
    eps,
    grad_raw_key,
    grad_raw_filter,
    grad_modulation,
    sums,
):
    B, T, H, _, F = raw_key.shape
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, B * T)):
            for h in range(H):
                head = (n * H + h) * 2 * F
                per_key = inverse_size(raw_key, head, 2 * F, F, NORM_EPS, lanes)
                per_filter = inverse_size(raw_filter, head, 2 * F, F, NORM_EPS, lanes)
                for k in range(0, F, len(lanes)):
                    at = head + k
                    base = h * 2 * F + k
                    shared = h * F + k
                    sum_at = (item * H + h) * 6 * F + k

                    grad_r = load(grad_key, at, lanes)
                    grad_i = load(grad_key, at + F, lanes)
                    key_r = load(base_key, base, lanes) + per_key * load(raw_key, at, lanes)
                    key_i = load(base_key, base + F, lanes) + per_key * load(raw_key, at + F, lanes)
                    add(sums, sum_at + 5 * F, grad_r * key_r + grad_i * key_i, lanes)
                    g = load(gain, shared, lanes)
                    grad_r = g * grad_r
                    grad_i = g * grad_i
                    add(sums, sum_at, grad_r, lanes)
                    add(sums, sum_at + F, grad_i, lanes)
                    store(grad_raw_key, at, grad_r)
                    store(grad_raw_key, at + F, grad_i)

                    tanh_r = tanh(load(modulation, at, lanes))
                    tanh_i = tanh(load(modulation, at + F, lanes))
                    u_r = load(base_filter, base, lanes) + tanh_r
                    u_r = u_r + per_filter * load(raw_filter, at, lanes)
                    u_i = load(base_filter, base + F, lanes) + tanh_i
                    u_i = u_i + per_filter * load(raw_filter, at + F, lanes)
                    magnitude = sqrt(u_r * u_r + u_i * u_i)
                    b = load(bias, shared, lanes)
                    raised = magnitude + b
                    # share = 1 / max(|u|, eps) where modReLU passes, else 0; bend is by how much faster than
                    # raised * share * |u| the output grows along u.
                    share = where(raised <= 0, 0, 1 / where(magnitude <= eps, eps, magnitude))
                    bend = where(eps <= magnitude, 0 - b, magnitude) * share
                    direction = 1 / where(magnitude <= TINY, TINY, magnitude)
                    grad_r = load(grad_filter, at, lanes)
                    grad_i = load(grad_filter, at + F, lanes)
                    along = grad_r * u_r + grad_i * u_i
                    add(sums, sum_at + 4 * F, share * along, lanes)
                    scale = raised * share
                    push = bend * along * direction * direction
                    grad_r = scale * grad_r + push * u_r
                    grad_i = scale * grad_i + push * u_i
                    add(sums, sum_at + 2 * F, grad_r, lanes)
                    add(sums, sum_at + 3 * F, grad_i, lanes)
                    store(grad_raw_filter, at, grad_r)
                    store(grad_raw_filter, at + F, grad_i)
                    store(grad_modulation, at, grad_r * (1 - tanh_r * tanh_r))
                    store(grad_modulation, at + F, grad_i * (1 - tanh_i * tanh_i))
                divide_back(grad_raw_key, raw_key, head, 2 * F, F, per_key, lanes)
                divide_back(grad_raw_filter, raw_filter, head, 2 * F, F, per_filter, lanes)


def _items(raw_key: Tensor) -> int:
    return -(-raw_key.shape[0] * raw_key.shape[1] // SPAN)


def _run(kernel: Any, raw_key: Tensor, inputs: tuple[Tensor, ...], eps: float, *outputs: Tensor) -> None:
    arrays = [x.numpy() for x in inputs]
    results = (x.numpy() for x in outputs)
    lanes = widest_lanes(raw_key.shape[4])
    work = 2 * raw_key.numel()
    threads.run(kernel, _items(raw_key), work, lanes, *arrays, arrays[0].dtype.type(eps), *results)


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
    inputs = (raw_key, raw_filter, modulation, base_key, base_filter, bias, gain)
    key = empty(raw_key)
    filter_ = empty(raw_key)
    _run(_forward, raw_key, inputs, eps, key, filter_)
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
    inputs = (grad_key, grad_filter, raw_key, raw_filter, modulation, base_key, base_filter, bias, gain)
    grad_raw_key = empty(raw_key)
    grad_raw_filter = empty(raw_key)
    grad_modulation = empty(raw_key)
    _, _, heads, _, bins = raw_key.shape
    sums = raw_key.new_zeros(_items(raw_key), heads, 6, bins)
    _run(_backward, raw_key, inputs, eps, grad_raw_key, grad_raw_filter, grad_modulation, sums)
    grads = sums.sum(dim=0)
    return (
        grad_raw_key,
        grad_raw_filter,
        grad_modulation,
        grads[:, :2].clone(),
        grads[:, 2:4].clone(),
        grads[:, 4].clone(),
        grads[:, 5].clone(),
    )
