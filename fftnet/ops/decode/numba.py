"""The decode step's kernels: what stands between its matrix products, in two calls a layer.

At one token a call costs more than its arithmetic, so these do in two what takes fifty small operations.
"""

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.threads import jit, threads


@jit
def _gate(first, last, x, projected, taps, recent, mean, count, context, values, kept, means, counts):  # pyright: ignore
    D, P = x.shape[1], recent.shape[1]
    one = x.dtype.type(1)
    for b in range(first, last):
        counts[b] = count[b] + 1
        share = one / x.dtype.type(counts[b])
        for c in range(D):
            means[b, c] = mean[b, c] + share * (x[b, c] - mean[b, c])
            context[b, c] = means[b, c]
            context[b, D + c] = x[b, c]
        for c in range(D):
            key = taps[c, P] * projected[b, c]
            value = taps[D + c, P] * projected[b, D + c]
            for i in range(P):
                key += taps[c, i] * recent[b, i, c]
                value += taps[D + c, i] * recent[b, i, D + c]
            values[b, c] = key * value
        for i in range(P):
            kept[b, i] = recent[b, i + 1] if i + 1 < P else projected[b]


@jit
def _mix(first, last, v, filter_, decay, frequency, bias, mixing, spectrum, floor, y, moved):  # pyright: ignore
    H, F, d = filter_.shape[1], filter_.shape[2], v.shape[2]
    zero = v.dtype.type(0)
    for h in range(H):
        for k in range(F):
            radius = np.exp(-decay[h, k])
            lr, li = radius * np.cos(frequency[h, k]), radius * np.sin(frequency[h, k])
            gain = np.sqrt(-np.expm1(-decay[h, k] - decay[h, k]))
            shift, cr, ci = bias[h, k], mixing[h, k, 0], mixing[h, k, 1]
            for b in range(first, last):
                f = filter_[b, h, k] * gain
                for c in range(d):
                    zr, zi = spectrum[b, k, 0, h, c], spectrum[b, k, 1, h, c]
                    zr, zi = lr * zr - li * zi + v[b, h, c], lr * zi + li * zr
                    moved[b, k, 0, h, c] = zr
                    moved[b, k, 1, h, c] = zi
                    magnitude = abs(f) * np.sqrt(zr * zr + zi * zi)
                    raised = magnitude + shift
                    raised = zero if raised <= zero else raised
                    out = f * raised / (floor if magnitude <= floor else magnitude) * (cr * zr - ci * zi)
                    y[b, h, c] = out if k == 0 else y[b, h, c] + out


def gate_step(
    x: Tensor, projected: Tensor, taps: Tensor, recent: Tensor, mean: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`fftnet.ops.decode.gate_step`."""
    outputs = (
        x.new_empty(x.shape[0], 2 * x.shape[1]),
        torch.empty_like(x),
        torch.empty_like(recent),
        torch.empty_like(mean),
        torch.empty_like(count),
    )
    arrays = [tensor.numpy() for tensor in (x, projected, taps, recent, mean, count, *outputs)]
    threads.run(_gate, x.shape[0], recent.numel() + x.numel(), *arrays)
    return outputs


def mix_step(
    v: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    mixing: Tensor,
    spectrum: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`fftnet.ops.decode.mix_step`."""
    y, moved = torch.empty_like(v), torch.empty_like(spectrum)
    inputs = [tensor.numpy() for tensor in (v, filter_, decay, frequency, bias, mixing, spectrum)]
    bound = inputs[0].dtype.type(floor)
    threads.run(_mix, v.shape[0], spectrum.numel(), *inputs, bound, y.numpy(), moved.numpy())
    return y, moved
