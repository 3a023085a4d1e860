"""Causal mixing in real numbers and without a loop over time, for exported programs.

See ``fftnet.ops.keyed_mix.export``. Within a chunk the prefix transform is a product with the triangular
matrix of ``lambda^(t-j)``; modReLU needs the spectrum of every token.
"""

from typing import Any

import torch
from torch import Tensor

from fftnet.ops.chunks import CHUNK, Planes, chunked, joined, product
from fftnet.ops.numerics import root


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


def causal_mix(*arguments: Any) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix.causal_mix``."""
    values, filter_, decay, frequency, bias, readout, state, eps = arguments
    v_BHNCd = chunked(values).movedim(3, 1).contiguous()
    c = torch.arange(CHUNK, device=values.device)
    n = torch.arange(v_BHNCd.shape[2], device=values.device)
    rate = (decay, frequency)

    # The state before chunk n: the first state, and what each chunk before has added at its end, all decayed
    # until then.
    to_end = _powers(CHUNK - 1 - c, *rate)
    added = (_by_bin(to_end[0][:, None] @ v_BHNCd), _by_bin(to_end[1][:, None] @ v_BHNCd))
    start_BHF1d = state.permute(2, 0, 3, 1, 4)[:, :, :, :, None]
    real, imag = product(_powers(CHUNK * (n[:, None] - n - 1), *rate), added, torch.matmul)
    first = product(_powers(CHUNK * n[:, None], *rate), (start_BHF1d[0], start_BHF1d[1]), torch.mul)
    before = (_by_bin(real + first[0])[..., None, :], _by_bin(imag + first[1])[..., None, :])

    # The spectrum of every prefix. Bins and tokens are the rows of one matrix: a product with more dimensions
    # would need a view of N chunks that torch.export can't prove if T stays open.
    within = [plane.flatten(1, 2)[:, None] for plane in _powers(c[:, None] - c, *rate)]
    since = _powers(c[:, None] + 1, *rate)
    carried = product((since[0][:, None], since[1][:, None]), before, torch.mul)
    z_BHNFCd = [
        (plane @ v_BHNCd).unflatten(3, (-1, CHUNK)) + other
        for plane, other in zip(within, carried, strict=True)
    ]
    real_BTHFd, imag_BTHFd = [joined(plane.permute(0, 2, 4, 1, 3, 5), values.shape[1]) for plane in z_BHNFCd]
    last = torch.stack([real_BTHFd[:, -1], imag_BTHFd[:, -1]], dim=3).permute(0, 2, 3, 1, 4).contiguous()
    # Steps 4 and 5 of section 2: modReLU is one real gain for both planes.
    filter_BTHF1 = filter_[..., None]
    magnitude = filter_BTHF1.abs() * root(real_BTHFd.square() + imag_BTHFd.square())
    gain = filter_BTHF1 * torch.relu(magnitude + bias[..., None]) / magnitude.clamp(min=eps)
    real_HF1, imag_HF1 = readout[..., None].unbind(2)
    return (gain * (real_HF1 * real_BTHFd - imag_HF1 * imag_BTHFd)).sum(dim=3), last
