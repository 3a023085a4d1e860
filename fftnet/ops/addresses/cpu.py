"""The CPU kernels of the addresses: one pass forward, one pass backward, vectors of bins.

See ``fftnet.ops.cpu`` for how to read kernels. Keys and filters share nothing, hence a kernel for each. A
work item is SPAN tokens with all of their heads, counted over the rows of the batch; the gradients of
parameters are one sum an item, and so the same on any number of threads. Backward computes root mean square,
tanh and modReLU again.

Keys, filters and modulation are (N, H, 2 F) here, the tokens of all rows with F real and then F imaginary
parts; F is known to the compiler. Padded bins are 0, and ``count`` is the number of the others. ``sums``
(items, H, 3, F) holds the gradients of the base's two planes and of gain or bias.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import TINY, modrelu_scale, modrelu_slopes, tanh
from fftnet.ops.cpu.memory import copies, empty, padded
from fftnet.ops.cpu.norm import SPAN, add, count_spans, divide_back, inverse_rms, split
from fftnet.ops.cpu.threads import threads
from fftnet.ops.cpu.vector import load, sqrt, store, where


@jit
def _keys(first, last, lanes, vectors, count, raw, base, gain, key):  # pyright: ignore
    N, H, _ = raw.shape
    F = len(lanes) * len(vectors)
    for n in range(first * SPAN, min(last * SPAN, N)):
        for h in range(H):
            # g (base + u / |u|): docs/maths.md, section 3, step 2.
            inverse = inverse_rms(raw, n, h, 2 * F, count, lanes)
            # Real and imaginary plane take the same steps.
            for k in range(0, F, len(lanes)):
                scale = load(gain, (h, k), lanes)
                for plane in range(2):
                    index = (n, h, plane * F + k)
                    u = load(base, (h, plane, k), lanes) + inverse * load(raw, index, lanes)
                    store(key, index, scale * u)


@jit
def _keys_back(first, last, lanes, vectors, count, raw, base, gain, grad_key, grad_raw, sums):  # pyright: ignore
    N, H, _ = raw.shape
    F = len(lanes) * len(vectors)
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, N)):
            for h in range(H):
                inverse = inverse_rms(raw, n, h, 2 * F, count, lanes)
                dot = load(raw, (n, h, 0), lanes) * 0
                for k in range(0, F, len(lanes)):
                    scale = load(gain, (h, k), lanes)
                    for plane in range(2):
                        index = (n, h, plane * F + k)
                        part = load(raw, index, lanes)
                        grad = load(grad_key, index, lanes)
                        u = load(base, (h, plane, k), lanes) + inverse * part
                        # key = gain u: the gradients of gain and u, summed over tokens and planes.
                        add(sums, (item, h, 2, k), grad * u, lanes)
                        grad = scale * grad
                        add(sums, (item, h, plane, k), grad, lanes)
                        dot = dot + grad * part
                        store(grad_raw, index, grad)
                divide_back(grad_raw, raw, n, h, 2 * F, dot, count, inverse, lanes)


@jit
def _filters(first, last, lanes, vectors, count, raw, modulation, base, bias, eps, filter_):  # pyright: ignore
    N, H, _ = raw.shape
    F = len(lanes) * len(vectors)
    for n in range(first * SPAN, min(last * SPAN, N)):
        for h in range(H):
            inverse = inverse_rms(raw, n, h, 2 * F, count, lanes)
            for k in range(0, F, len(lanes)):
                re = (n, h, k)
                im = (n, h, F + k)
                # u = base + tanh(modulation) + q / |q|, then modReLU(u): docs/maths.md, section 3, step 5.
                u_re = load(base, (h, 0, k), lanes) + inverse * load(raw, re, lanes)
                u_re = u_re + tanh(load(modulation, re, lanes))
                u_im = load(base, (h, 1, k), lanes) + inverse * load(raw, im, lanes)
                u_im = u_im + tanh(load(modulation, im, lanes))
                magnitude = sqrt(u_re * u_re + u_im * u_im)
                scale = modrelu_scale(magnitude, load(bias, (h, k), lanes), eps)
                store(filter_, re, scale * u_re)
                store(filter_, im, scale * u_im)


@jit
def _filters_back(  # pyright: ignore
    first,
    last,
    lanes,
    vectors,
    count,
    raw,
    modulation,
    base,
    bias,
    eps,
    grad_filter,
    grad_raw,
    grad_modulated,
    sums,
):
    N, H, _ = raw.shape
    F = len(lanes) * len(vectors)
    for item in range(first, last):
        for n in range(item * SPAN, min((item + 1) * SPAN, N)):
            for h in range(H):
                inverse = inverse_rms(raw, n, h, 2 * F, count, lanes)
                dot = load(raw, (n, h, 0), lanes) * 0
                for k in range(0, F, len(lanes)):
                    re = (n, h, k)
                    im = (n, h, F + k)
                    raw_re = load(raw, re, lanes)
                    raw_im = load(raw, im, lanes)
                    tanh_re = tanh(load(modulation, re, lanes))
                    tanh_im = tanh(load(modulation, im, lanes))
                    u_re = load(base, (h, 0, k), lanes) + inverse * raw_re + tanh_re
                    u_im = load(base, (h, 1, k), lanes) + inverse * raw_im + tanh_im
                    magnitude = sqrt(u_re * u_re + u_im * u_im)
                    inverse_magnitude = 1 / where(magnitude <= TINY, TINY, magnitude)
                    shift = load(bias, (h, k), lanes)
                    share, scale, slope = modrelu_slopes(magnitude, inverse_magnitude, shift, eps)
                    # modReLU scales the gradient, and adds a part along u because the scale depends on |u|.
                    grad_re = load(grad_filter, re, lanes)
                    grad_im = load(grad_filter, im, lanes)
                    along = grad_re * u_re + grad_im * u_im
                    radial = slope * along * inverse_magnitude * inverse_magnitude
                    grad_re = scale * grad_re + radial * u_re
                    grad_im = scale * grad_im + radial * u_im
                    add(sums, (item, h, 0, k), grad_re, lanes)
                    add(sums, (item, h, 1, k), grad_im, lanes)
                    add(sums, (item, h, 2, k), share * along, lanes)
                    dot = dot + grad_re * raw_re + grad_im * raw_im
                    store(grad_raw, re, grad_re)
                    store(grad_raw, im, grad_im)
                    # tanh' = 1 - tanh^2
                    store(grad_modulated, re, grad_re * (1 - tanh_re * tanh_re))
                    store(grad_modulated, im, grad_im * (1 - tanh_im * tanh_im))
                divide_back(grad_raw, raw, n, h, 2 * F, dot, count, inverse, lanes)


def _run(kernel: Any, count: int, *arguments: Any) -> None:
    raw = arguments[0]
    flat = [x.flatten(0, 1).flatten(2) if isinstance(x, Tensor) and x.ndim == 5 else x for x in arguments]
    threads.run(kernel, count_spans(raw), raw.numel(), *split(raw.shape[4]), count, *flat)


def forward(
    raw_key: Tensor, raw_filter: Tensor, modulation: Tensor, *parameters: Any
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    *tensors, eps = parameters
    bins = raw_key.shape[4]
    raw_key, raw_filter, modulation = map(padded, (raw_key, raw_filter, modulation))
    base_key, base_filter, bias, gain = map(padded, copies(*tensors))
    key = empty(raw_key)
    filter_ = empty(raw_key)
    _run(_keys, bins, raw_key, base_key, gain, key)
    _run(_filters, bins, raw_filter, modulation, base_filter, bias, eps, filter_)
    return key[..., :bins], filter_[..., :bins]


def backward(raw_key: Tensor, raw_filter: Tensor, modulation: Tensor, *others: Any) -> tuple[Tensor, ...]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    *parameters, grad_key, grad_filter, eps = others
    bins = raw_key.shape[4]
    raw_key, raw_filter, modulation = map(padded, (raw_key, raw_filter, modulation))
    base_key, base_filter, bias, gain = map(padded, copies(*parameters))
    grad_key, grad_filter = padded(grad_key), padded(grad_filter)
    grad_raw_key = empty(raw_key)
    grad_raw_filter = empty(raw_key)
    grad_modulation = empty(raw_key)
    # A sum for each work item, because items run in different threads.
    key_sums = raw_key.new_zeros(count_spans(raw_key), *gain.shape[:1], 3, *gain.shape[1:])
    filter_sums = torch.zeros_like(key_sums)
    _run(_keys_back, bins, raw_key, base_key, gain, grad_key, grad_raw_key, key_sums)
    inputs = (raw_filter, modulation, base_filter, bias, eps, grad_filter)
    _run(_filters_back, bins, *inputs, grad_raw_filter, grad_modulation, filter_sums)
    grad_base_key, grad_gain = key_sums.sum(dim=0)[..., :bins].split([2, 1], dim=1)
    grad_base_filter, grad_bias = filter_sums.sum(dim=0)[..., :bins].split([2, 1], dim=1)
    # Copies, since an operator must not return two views of one tensor.
    parts = (grad_base_key, grad_base_filter, grad_bias[:, 0], grad_gain[:, 0])
    streams = (grad_raw_key, grad_raw_filter, grad_modulation)
    return *(x[..., :bins] for x in streams), *(part.clone() for part in parts)
