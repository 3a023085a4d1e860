"""The CPU backend of bidirectional mixing: PyTorch's transforms, and one pass for all that is between them.

A transform over tokens that lie D numbers apart costs two to three times one over adjacent tokens, so they
are transposed on the way in and out: 16 rows at once, in two rounds of interleaving four, which LLVM turns
into vector shuffles. A work item of the pass is one head of one row of the batch and a range of bins; it
walks over the head's channels, so that filter, bias and the sums for their gradients stay in the cache.

Every large temporary is paid twice, because a fresh one has to be mapped page by page. So the transposed
tokens, the filtered spectrum and the result take turns in one buffer.
"""

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.memory import fresh
from fftnet.ops.cpu.threads import jit, threads
from fftnet.ops.spectral_mix import count_bins

SPAN = 512
"""Bins of a work item."""
ROWS, COLUMNS = 64, 256
"""Of a work item of the transposition."""

ZERO, ONE, TINY = np.float32(0), np.float32(1), np.float32(1e-15)


@jit
def _interleave(first, second, third, fourth, out):  # pyright: ignore
    for n in range(first.shape[0]):
        out[4 * n] = first[n]
        out[4 * n + 1] = second[n]
        out[4 * n + 2] = third[n]
        out[4 * n + 3] = fourth[n]


@jit
def _transpose(first, last, source, target, rows, columns):  # pyright: ignore
    down, across = (rows + ROWS - 1) // ROWS, (columns + COLUMNS - 1) // COLUMNS
    quarters = np.empty((4, 4 * COLUMNS), source.dtype)
    packed = np.empty(16 * COLUMNS, source.dtype)
    for item in range(first, last):
        b, r0, c0 = item // across // down, item // across % down * ROWS, item % across * COLUMNS
        r1, c1 = min(r0 + ROWS, rows), min(c0 + COLUMNS, columns)
        whole = r0 + (r1 - r0) // 16 * 16
        for r in range(r0, whole, 16):
            for n in range(4):
                _interleave(
                    source[b, r + n, c0:c1],
                    source[b, r + n + 4, c0:c1],
                    source[b, r + n + 8, c0:c1],
                    source[b, r + n + 12, c0:c1],
                    quarters[n],
                )
            filled = 4 * (c1 - c0)
            _interleave(
                quarters[0, :filled], quarters[1, :filled], quarters[2, :filled], quarters[3, :filled], packed
            )
            for c in range(c1 - c0):
                line = target[b, c0 + c]
                for n in range(16):
                    line[r + n] = packed[16 * c + n]
        for c in range(c0, c1):
            line = target[b, c]
            for r in range(whole, r1):
                line[r] = source[b, r, c]


@jit
def _apply(spectrum, filtered, filter_, bias, floor):  # pyright: ignore
    for k in range(filter_.shape[0]):
        re, im, f = spectrum[2 * k], spectrum[2 * k + 1], filter_[k]
        magnitude = abs(f) * np.sqrt(re * re + im * im)
        raised = magnitude + bias[k]
        raised = ZERO if raised < ZERO else raised
        gain = f * raised / (floor if magnitude < floor else magnitude)
        filtered[2 * k] = gain * re
        filtered[2 * k + 1] = gain * im


@jit
def _reverse(spectrum, grad, filter_, bias, sum_filter, sum_bias, floor):  # pyright: ignore
    for k in range(filter_.shape[0]):
        re, im, f = spectrum[2 * k], spectrum[2 * k + 1], filter_[k]
        grad_re, grad_im = grad[2 * k], grad[2 * k + 1]
        modulus = np.sqrt(re * re + im * im)
        magnitude = abs(f) * modulus
        raised = magnitude + bias[k]
        small = magnitude < floor
        share = (ZERO if raised <= ZERO else ONE) / (floor if small else magnitude)
        gain, slope = raised * share, magnitude * share
        bend = slope if small else slope - gain
        dot = grad_re * re + grad_im * im
        inverse = ONE / (TINY if modulus < TINY else modulus)
        radial = bend * dot * inverse * inverse
        sum_filter[k] += (gain + bend) * dot
        sum_bias[k] += f * share * dot
        grad[2 * k] = f * (gain * grad_re + radial * re)
        grad[2 * k + 1] = f * (gain * grad_im + radial * im)


@jit
def _forward(first, last, spectrum, filtered, filter_, bias, floor):  # pyright: ignore
    heads, bins = bias.shape
    width = spectrum.shape[1] // heads
    spans = (bins + SPAN - 1) // SPAN
    for item in range(first, last):
        b, h, start = item // spans // heads, item // spans % heads, item % spans * SPAN
        stop = min(start + SPAN, bins)
        for c in range(h * width, (h + 1) * width):
            _apply(
                spectrum[b, c, 2 * start : 2 * stop],
                filtered[b, c, 2 * start : 2 * stop],
                filter_[b, h, start:stop],
                bias[h, start:stop],
                floor,
            )


@jit
def _backward(first, last, spectrum, grad, filter_, bias, sum_filter, sum_bias, floor):  # pyright: ignore
    heads, bins = bias.shape
    width = spectrum.shape[1] // heads
    spans = (bins + SPAN - 1) // SPAN
    for item in range(first, last):
        b, h, start = item // spans // heads, item // spans % heads, item % spans * SPAN
        stop = min(start + SPAN, bins)
        for c in range(h * width, (h + 1) * width):
            _reverse(
                spectrum[b, c, 2 * start : 2 * stop],
                grad[b, c, 2 * start : 2 * stop],
                filter_[b, h, start:stop],
                bias[h, start:stop],
                sum_filter[b, h, start:stop],
                sum_bias[b, h, start:stop],
                floor,
            )


def _transpose_into(target: Tensor, source: Tensor, rows: int, columns: int) -> None:
    items = source.shape[0] * -(-rows // ROWS) * -(-columns // COLUMNS)
    threads.run(_transpose, items, source.numel(), source.numpy(), target.numpy(), rows, columns)


def _transform(x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrum (B, D, 2 F), real and imaginary part in turn, and a buffer of that shape to be used again."""
    batch, tokens, width = x_BTD.shape
    buffer = fresh(x_BTD, batch, width, tokens // 2 * 2 + 2)
    _transpose_into(buffer, x_BTD, tokens, width)
    spectrum = torch.fft.rfft(buffer[..., :tokens], norm="ortho")
    return torch.view_as_real(spectrum).flatten(2), buffer


def _inverse(spectrum_BDG: Tensor, num_tokens: int, buffer: Tensor) -> Tensor:
    """Tokens, which take the place of ``buffer``; that may be the spectrum itself."""
    pairs = torch.view_as_complex(spectrum_BDG.unflatten(2, (-1, 2)))
    x_BDT = torch.fft.irfft(pairs, n=num_tokens, norm="ortho")
    x_BTD = buffer.flatten()[: x_BDT.numel()].view(x_BDT.shape[0], num_tokens, x_BDT.shape[1])
    _transpose_into(x_BTD, x_BDT, x_BDT.shape[1], num_tokens)
    return x_BTD


def _items(filter_: Tensor) -> int:
    batch, heads, bins = filter_.shape
    return batch * heads * -(-bins // SPAN)


def forward(x: Tensor, filter_: Tensor, bias: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """See :mod:`fftnet.ops.spectral_mix` for the contract of a backend."""
    spectrum, filtered = _transform(x)
    arrays = tuple(t.numpy() for t in (spectrum, filtered, filter_, bias))
    threads.run(_forward, _items(filter_), x.numel(), *arrays, arrays[0].dtype.type(floor))
    return _inverse(filtered, x.shape[1], filtered), spectrum.unflatten(2, (-1, 2))


def backward(
    grad_y: Tensor, spectrum: Tensor, filter_: Tensor, bias: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See :mod:`fftnet.ops.spectral_mix` for the contract of a backend."""
    grad, buffer = _transform(grad_y)
    sum_filter, sum_bias = torch.zeros_like(filter_), torch.zeros_like(filter_)
    arrays = tuple(t.numpy() for t in (spectrum.flatten(2), grad, filter_, bias, sum_filter, sum_bias))
    threads.run(_backward, _items(filter_), grad_y.numel(), *arrays, arrays[0].dtype.type(floor))
    tokens = grad_y.shape[1]
    return (
        _inverse(grad, tokens, buffer),
        count_bins(sum_filter, tokens),
        count_bins(sum_bias.sum(dim=0), tokens),
    )
