"""The CPU backend of bidirectional mixing: PyTorch's transforms, and one pass for all that is between them.

A transform over tokens that lie D numbers apart costs two to three times one over adjacent tokens, so they
are transposed on the way in and out: 16 rows at once, in two rounds of interleaving four, which the compiler
turns into shuffles of registers. A work item of the pass is one head of one row of the batch and a range of
bins; it walks over the head's channels, so that filter, bias and the sums for their gradients stay in the
cache. Its loops are plain ones, over bins: there is no recurrence, so they become vectors by themselves. See
``fftnet.ops.cpu`` for how to read kernels.

Every large temporary is paid twice, because a fresh one has to be mapped page by page. So the transposed
tokens, the filtered spectrum and the result take turns in one buffer.
"""

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.memory import empty
from fftnet.ops.cpu.threads import threads
from fftnet.ops.fourier import count_bins

SPAN = 512
"""Bins of a work item."""
ROWS = 64
"""Of a work item of the transposition."""
COLUMNS = 256
"""Of a work item of the transposition."""

# In single precision they turn neither float32 nor float64 arithmetic into a wider one.
ZERO = np.float32(0)
ONE = np.float32(1)
TINY = np.float32(1e-15)


@jit
def _interleave(first, second, third, fourth, out):  # pyright: ignore
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
            # Rows n, n + 4, n + 8, n + 12 interleaved, then these four: the 16 rows' numbers of a column are
            # neighbours.
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
        # The rows that are left, fewer than 16, one number at a time.
        for c in range(c0, c1):
            line = target[b, c]
            for r in range(whole, r1):
                line[r] = source[b, r, c]


@jit
def _activate(spectrum, filtered, filter_, bias, eps):  # pyright: ignore
    """``A = relu(|f X| + bias) f X / max(|f X|, eps)`` of one channel, bin by bin."""
    for k in range(filter_.shape[0]):
        x_r = spectrum[2 * k]
        x_i = spectrum[2 * k + 1]
        f = filter_[k]
        magnitude = abs(f) * np.sqrt(x_r * x_r + x_i * x_i)
        raised = magnitude + bias[k]
        raised = ZERO if raised < ZERO else raised
        gain = f * raised / (eps if magnitude < eps else magnitude)
        filtered[2 * k] = gain * x_r
        filtered[2 * k + 1] = gain * x_i


@jit
def _activate_back(spectrum, grad, filter_, bias, grad_filter, grad_bias, eps):  # pyright: ignore
    """The gradients of one channel: of the spectrum in place of ``grad``, the others added up."""
    for k in range(filter_.shape[0]):
        x_r = spectrum[2 * k]
        x_i = spectrum[2 * k + 1]
        f = filter_[k]
        grad_r = grad[2 * k]
        grad_i = grad[2 * k + 1]
        modulus = np.sqrt(x_r * x_r + x_i * x_i)
        magnitude = abs(f) * modulus
        raised = magnitude + bias[k]
        small = magnitude < eps
        # share = 1 / max(magnitude, eps) where modReLU passes, else 0; bend is by how much faster than
        # gain * |X| the output grows along X.
        share = (ZERO if raised <= ZERO else ONE) / (eps if small else magnitude)
        gain = raised * share
        slope = magnitude * share
        bend = slope if small else slope - gain
        dot = grad_r * x_r + grad_i * x_i
        inverse = ONE / (TINY if modulus < TINY else modulus)
        radial = bend * dot * inverse * inverse
        grad_filter[k] += (gain + bend) * dot
        grad_bias[k] += f * share * dot
        grad[2 * k] = f * (gain * grad_r + radial * x_r)
        grad[2 * k + 1] = f * (gain * grad_i + radial * x_i)


@jit
def _forward(first, last, spectrum, filtered, filter_, bias, eps):  # pyright: ignore
    heads, bins = bias.shape
    width = spectrum.shape[1] // heads
    spans = (bins + SPAN - 1) // SPAN
    for item in range(first, last):
        b = item // spans // heads
        h = item // spans % heads
        start = item % spans * SPAN
        stop = min(start + SPAN, bins)
        for c in range(h * width, (h + 1) * width):
            _activate(
                spectrum[b, c, 2 * start : 2 * stop],
                filtered[b, c, 2 * start : 2 * stop],
                filter_[b, h, start:stop],
                bias[h, start:stop],
                eps,
            )


@jit
def _backward(first, last, spectrum, grad, filter_, bias, grad_filter, grad_bias, eps):  # pyright: ignore
    heads, bins = bias.shape
    width = spectrum.shape[1] // heads
    spans = (bins + SPAN - 1) // SPAN
    for item in range(first, last):
        b = item // spans // heads
        h = item // spans % heads
        start = item % spans * SPAN
        stop = min(start + SPAN, bins)
        for c in range(h * width, (h + 1) * width):
            _activate_back(
                spectrum[b, c, 2 * start : 2 * stop],
                grad[b, c, 2 * start : 2 * stop],
                filter_[b, h, start:stop],
                bias[h, start:stop],
                grad_filter[b, h, start:stop],
                grad_bias[b, h, start:stop],
                eps,
            )


def _transpose_into(target: Tensor, source: Tensor, rows: int, columns: int) -> None:
    items = source.shape[0] * -(-rows // ROWS) * -(-columns // COLUMNS)
    threads.run(_transpose, items, source.numel(), source.numpy(), target.numpy(), rows, columns)


def _transform(x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrum (B, D, 2 F), real and imaginary part in turn, and a buffer of that shape to be used again."""
    batch, tokens, width = x_BTD.shape
    buffer = empty(x_BTD, batch, width, tokens // 2 * 2 + 2)
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


def forward(x: Tensor, filter_: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.spectral_mix`` for the contract of a backend."""
    spectrum, filtered = _transform(x)
    arrays = tuple(t.numpy() for t in (spectrum, filtered, filter_, bias))
    threads.run(_forward, _items(filter_), x.numel(), *arrays, arrays[0].dtype.type(eps))
    return _inverse(filtered, x.shape[1], filtered), spectrum.unflatten(2, (-1, 2))


def backward(
    filter_: Tensor, bias: Tensor, spectrum: Tensor, grad_mixed: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.spectral_mix`` for the contract of a backend."""
    grad, buffer = _transform(grad_mixed)
    grad_filter = torch.zeros_like(filter_)
    # One sum a row of the batch, since rows are done by different threads.
    grad_bias = torch.zeros_like(filter_)
    arrays = tuple(t.numpy() for t in (spectrum.flatten(2), grad, filter_, bias, grad_filter, grad_bias))
    threads.run(_backward, _items(filter_), grad_mixed.numel(), *arrays, arrays[0].dtype.type(eps))
    tokens = grad_mixed.shape[1]
    return (
        _inverse(grad, tokens, buffer),
        count_bins(grad_filter, tokens),
        count_bins(grad_bias.sum(dim=0), tokens),
    )
