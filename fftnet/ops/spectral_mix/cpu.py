"""The CPU backend of bidirectional mixing: PyTorch's transforms, and one pass for everything between them.

A transform over tokens that lie D numbers apart takes two to three times as long as one over adjacent tokens,
so they are transposed on the way in and out: 16 rows at once, in two rounds of interleaving four, which the
compiler turns into shuffles of registers. A work item of the pass is one head of one row of the batch and a
range of bins; it walks over the head's channels, so that filter, bias and the sums for their gradients stay
in the cache. Transposed tokens, filtered spectrum and result share a buffer, since fresh memory has to be
mapped page by page. See ``fftnet.ops.cpu`` for how to read kernels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.functions import modrelu_scale
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.fourier import count_bins

SPAN = 512  # Bins of a work item of the pass.
ROWS = 64  # Rows of a work item of the transposition.
COLUMNS = 256  # Columns of a work item of the transposition.

# In single precision they turn neither float32 nor float64 arithmetic into a wider one.
ZERO = np.float32(0)
ONE = np.float32(1)
TINY = np.float32(1e-15)


@jit
def _interleave(first, second, third, fourth, out):  # pyright: ignore
    # Four streams in, one out: a shuffle of registers.
    for n in range(first.shape[0]):
        out[4 * n] = first[n]
        out[4 * n + 1] = second[n]
        out[4 * n + 2] = third[n]
        out[4 * n + 3] = fourth[n]


@jit
def _transpose(first, last, source, target, rows, columns):  # pyright: ignore
    """``target[b, c, r] = source[b, r, c]``, tile by tile of ROWS times COLUMNS."""
    down = (rows + ROWS - 1) // ROWS
    across = (columns + COLUMNS - 1) // COLUMNS
    quarters = np.empty((4, 4 * COLUMNS), source.dtype)
    packed = np.empty(16 * COLUMNS, source.dtype)
    for item in range(first, last):
        b = item // across // down
        r0 = item // across % down * ROWS
        c0 = item % across * COLUMNS
        r1 = min(r0 + ROWS, rows)
        c1 = min(c0 + COLUMNS, columns)
        whole = r0 + (r1 - r0) // 16 * 16
        for r in range(r0, whole, 16):
            # Rows n, n + 4, n + 8, n + 12 interleaved, then these four: the 16 rows' numbers of a column
            # become neighbours.
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
        # The last rows, fewer than 16, one number at a time.
        for c in range(c0, c1):
            line = target[b, c]
            for r in range(whole, r1):
                line[r] = source[b, r, c]


@jit
def _activate(spectrum, filter_, bias, eps, filtered):  # pyright: ignore
    """``A = modReLU(f X; b)`` of one channel, bin by bin; real and imaginary parts take turns."""
    for k in range(filter_.shape[0]):
        x_re = spectrum[2 * k]
        x_im = spectrum[2 * k + 1]
        f = filter_[k]
        # |f X|, docs/maths.md, section 1, steps 5 and 6.
        magnitude = abs(f) * np.sqrt(x_re * x_re + x_im * x_im)
        scale = f * modrelu_scale(magnitude, bias[k], eps)
        filtered[2 * k] = scale * x_re
        filtered[2 * k + 1] = scale * x_im


@jit
def _activate_back(spectrum, filter_, bias, eps, grad, grad_filter, grad_bias):  # pyright: ignore
    """Gradients of one channel: that of the spectrum replaces ``grad``, the others are added up."""
    for k in range(filter_.shape[0]):
        x_re = spectrum[2 * k]
        x_im = spectrum[2 * k + 1]
        f = filter_[k]
        grad_re = grad[2 * k]
        grad_im = grad[2 * k + 1]
        modulus = np.sqrt(x_re * x_re + x_im * x_im)
        magnitude = abs(f) * modulus
        shifted = magnitude + bias[k]
        small = magnitude < eps
        # The same three factors as in fftnet.ops.cpu.functions.modrelu_slopes, in numbers of one dtype.
        share = (ZERO if shifted <= ZERO else ONE) / (eps if small else magnitude)
        scale = shifted * share
        slope = magnitude * share if small else magnitude * share - scale
        # The component of the gradient along X, times |X|.
        dot = grad_re * x_re + grad_im * x_im
        inverse = ONE / (TINY if modulus < TINY else modulus)
        radial = slope * dot * inverse * inverse
        grad_filter[k] += (scale + slope) * dot
        grad_bias[k] += f * share * dot
        grad[2 * k] = f * (scale * grad_re + radial * x_re)
        grad[2 * k + 1] = f * (scale * grad_im + radial * x_im)


@jit
def _pass(first, last, spectrum, filter_, bias, eps, out, grad_filter, grad_bias):  # pyright: ignore
    """Forward pass into ``out``, or with a ``grad_filter`` the backward pass, which replaces ``out``."""
    heads, bins = bias.shape
    width = spectrum.shape[1] // heads
    spans = (bins + SPAN - 1) // SPAN
    bound = spectrum.dtype.type(eps)
    for item in range(first, last):
        b = item // spans // heads
        h = item // spans % heads
        start = item % spans * SPAN
        stop = min(start + SPAN, bins)
        f = filter_[b, h, start:stop]
        shift = bias[h, start:stop]
        # Views of one channel as arrays: the compiler then needs one check of aliasing for all bins.
        for c in range(h * width, (h + 1) * width):
            x = spectrum[b, c, 2 * start : 2 * stop]
            y = out[b, c, 2 * start : 2 * stop]
            if grad_filter is None:
                _activate(x, f, shift, bound, y)
            else:
                grads = (grad_filter[b, h, start:stop], grad_bias[b, h, start:stop])
                _activate_back(x, f, shift, bound, y, grads[0], grads[1])


def _transpose_into(target: Tensor, source: Tensor, rows: int, columns: int) -> None:
    items = source.shape[0] * -(-rows // ROWS) * -(-columns // COLUMNS)
    threads.run(_transpose, items, source.numel(), source, target, rows, columns)


def _transform(x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectrum (B, D, 2 F), real and imaginary part in turn, and a buffer of that shape."""
    batch, tokens, width = x_BTD.shape
    buffer = empty(x_BTD, batch, width, tokens // 2 * 2 + 2)
    _transpose_into(buffer, x_BTD, tokens, width)
    spectrum = torch.fft.rfft(buffer[..., :tokens], norm="ortho")
    return torch.view_as_real(spectrum).flatten(2), buffer


def _inverse(spectrum_BDG: Tensor, num_tokens: int, buffer: Tensor) -> Tensor:
    """Return the tokens, which take the memory of ``buffer``; that may be the spectrum itself."""
    pairs = torch.view_as_complex(spectrum_BDG.unflatten(2, (-1, 2)))
    x_BDT = torch.fft.irfft(pairs, n=num_tokens, norm="ortho")
    x_BTD = buffer.flatten()[: x_BDT.numel()].view(x_BDT.shape[0], num_tokens, x_BDT.shape[1])
    _transpose_into(x_BTD, x_BDT, x_BDT.shape[1], num_tokens)
    return x_BTD


def _run_pass(spectrum: Tensor, filter_: Tensor, *arguments: Any) -> None:
    batch, heads, bins = filter_.shape
    items = batch * heads * -(-bins // SPAN)
    threads.run(_pass, items, spectrum.numel(), spectrum, filter_, *arguments)


def forward(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    spectrum, filtered = _transform(x)
    _run_pass(spectrum, filter_, bias, eps, filtered, None, None)
    return _inverse(filtered, x.shape[1], filtered), spectrum.unflatten(2, (-1, 2))


def backward(
    filter_: Tensor, bias: Tensor, spectrum: Tensor, grad_mixed: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    grad, buffer = _transform(grad_mixed)
    grad_filter = torch.zeros_like(filter_)
    # One sum a row of the batch, since rows are done by different threads.
    grad_bias = torch.zeros_like(filter_)
    _run_pass(spectrum.flatten(2), filter_, bias, eps, grad, grad_filter, grad_bias)
    tokens = grad_mixed.shape[1]
    grad_bias = count_bins(grad_bias.sum(dim=0), tokens)
    return _inverse(grad, tokens, buffer), count_bins(grad_filter, tokens), grad_bias
