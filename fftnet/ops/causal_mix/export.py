"""Causal mixing in real numbers and without a loop over time, for exported programs.

Every operation here is one that other runtimes know, and none depends on the values, so that the number of
tokens may stay open. Within a chunk the prefix transform is a product with the triangular matrix of
``lambda^(t-j)``, and the state before each chunk is a sum over the chunks before it. That takes
O(T^2 / CHUNK^2) in time and memory beyond the spectrum of every token, which modReLU needs. A number that is
not finite spoils its whole row, so this backend is not for training.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fftnet.ops.chunks import CHUNK, chunked, joined
from fftnet.ops.numerics import root

Planes = tuple[Tensor, Tensor]
"""Real and imaginary part."""


def _powers(age: Tensor, decay: Tensor, frequency: Tensor) -> Planes:
    """``lambda^age`` for ages of any shape, (H, F, *age.shape); 0 where an age is below 0."""
    shape = (*decay.shape, *(1 for _ in age.shape))
    wide = age.clamp(min=0).to(decay.dtype)
    radius = torch.exp(-decay.view(shape) * wide) * (age >= 0)
    angle = frequency.view(shape) * wide
    return radius * angle.cos(), radius * angle.sin()


def _by_bin(x: Tensor) -> Tensor:
    """Swap (B, H, N, F, d) and (B, H, F, N, d)."""
    return x.transpose(2, 3)


def _product(one: Planes, other: Planes, multiply: Callable[[Tensor, Tensor], Tensor]) -> Planes:
    """Return the complex product for a real one, element by element or of matrices."""
    real = multiply(one[0], other[0]) - multiply(one[1], other[1])
    return real, multiply(one[0], other[1]) + multiply(one[1], other[0])


def causal_mix(
    values: Tensor,
    filter_: Tensor,
    decay: Tensor,
    frequency: Tensor,
    bias: Tensor,
    readout: Tensor,
    state: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix.causal_mix``."""
    v_BHNCd = chunked(values).movedim(3, 1).contiguous()
    c = torch.arange(CHUNK, device=values.device)
    n = torch.arange(v_BHNCd.shape[2], device=values.device)
    rate = (decay, frequency)

    # The state before chunk n: the first state, and what each chunk before has added at its end, all decayed
    # until then.
    to_end = _powers(CHUNK - 1 - c, *rate)
    added = (_by_bin(to_end[0][:, None] @ v_BHNCd), _by_bin(to_end[1][:, None] @ v_BHNCd))
    start_BHF1d = state.permute(2, 0, 3, 1, 4)[:, :, :, :, None]
    real, imag = _product(_powers(CHUNK * (n[:, None] - n - 1), *rate), added, torch.matmul)
    first = _product(_powers(CHUNK * n[:, None], *rate), (start_BHF1d[0], start_BHF1d[1]), torch.mul)
    before = (_by_bin(real + first[0])[..., None, :], _by_bin(imag + first[1])[..., None, :])

    # The spectrum of every prefix. Bins and tokens are the rows of one matrix: a product with more dimensions
    # would need a view of N chunks that torch.export can't prove if T stays open.
    within = [plane.flatten(1, 2)[:, None] for plane in _powers(c[:, None] - c, *rate)]
    since = _powers(c[:, None] + 1, *rate)
    carried = _product((since[0][:, None], since[1][:, None]), before, torch.mul)
    z_BHNFCd = [
        (plane @ v_BHNCd).unflatten(3, (-1, CHUNK)) + other
        for plane, other in zip(within, carried, strict=True)
    ]
    z_BTHFd = [joined(plane.permute(0, 2, 4, 1, 3, 5), values.shape[1]) for plane in z_BHNFCd]
    last = torch.stack([plane[:, -1] for plane in z_BTHFd], dim=3).permute(0, 2, 3, 1, 4)
    return _read_out(z_BTHFd[0], z_BTHFd[1], filter_, bias, readout, eps), last.contiguous()


def _read_out(
    real_BTHFd: Tensor, imag_BTHFd: Tensor, filter_: Tensor, bias: Tensor, readout: Tensor, eps: float
) -> Tensor:
    # Steps 4 and 5 of section 2: modReLU is one real gain for both planes.
    filter_BTHF1 = filter_[..., None]
    magnitude = filter_BTHF1.abs() * root(real_BTHFd.square() + imag_BTHFd.square())
    gain = filter_BTHF1 * torch.relu(magnitude + bias[..., None]) / magnitude.clamp(min=eps)
    real_HF1, imag_HF1 = readout[..., None].unbind(2)
    return (gain * (real_HF1 * real_BTHFd - imag_HF1 * imag_BTHFd)).sum(dim=3)
