"""Causal mixing in real numbers and without a loop over time: what exported programs hold.

Every operation here is one that other runtimes know, and none depends on the values, so that the number of
tokens may stay open. Within a chunk the prefix transform is a product with the triangular matrix of
``lambda^(t-j)``, and the state before each chunk a sum over the chunks before it: O(T^2 / CHUNK^2) in time
and memory beyond the spectrum of every token, which modReLU needs. And a number that is not finite spoils its
whole row: the other backends are for training.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fftnet.ops.causal_mix.parameters import HeadParameters
from fftnet.ops.chunks import CHUNK, chunked, joined

Planes = tuple[Tensor, Tensor]
"""Real and imaginary part."""


def _powers(age: Tensor, parameters: HeadParameters) -> Planes:
    """``lambda^age`` for ages of any shape, (H, F, *age.shape); 0 where an age is below 0."""
    shape = (*parameters.decay.shape, *(1 for _ in age.shape))
    wide = age.clamp(min=0).to(parameters.decay.dtype)
    radius = torch.exp(-parameters.decay.view(shape) * wide) * (age >= 0)
    angle = parameters.frequency.view(shape) * wide
    return radius * angle.cos(), radius * angle.sin()


def _by_bin(x: Tensor) -> Tensor:
    """(B, H, N, F, d) to (B, H, F, N, d), and back."""
    return x.transpose(2, 3)


def _product(one: Planes, other: Planes, multiply: Callable[[Tensor, Tensor], Tensor]) -> Planes:
    """The complex product that belongs to a real one, element by element or of matrices."""
    real = multiply(one[0], other[0]) - multiply(one[1], other[1])
    return real, multiply(one[0], other[1]) + multiply(one[1], other[0])


def causal_mix(
    values: Tensor, filter_: Tensor, parameters: HeadParameters, state: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.causal_mix.causal_mix``; for tensors of one dtype."""
    v_BHNCd = chunked(values).movedim(3, 1).contiguous()
    c = torch.arange(CHUNK, device=values.device)
    n = torch.arange(v_BHNCd.shape[2], device=values.device)

    # The state before chunk n: what is left of the first, and of what each chunk before has added at its end.
    to_end = _powers(CHUNK - 1 - c, parameters)
    added = (_by_bin(to_end[0][:, None] @ v_BHNCd), _by_bin(to_end[1][:, None] @ v_BHNCd))
    start_BHF1d = state.permute(2, 0, 3, 1, 4)[:, :, :, :, None]
    real, imag = _product(_powers(CHUNK * (n[:, None] - n - 1), parameters), added, torch.matmul)
    since = _powers(CHUNK * n[:, None], parameters)
    left_real, left_imag = _product(since, (start_BHF1d[0], start_BHF1d[1]), torch.mul)
    before = (_by_bin(real + left_real)[..., None, :], _by_bin(imag + left_imag)[..., None, :])

    # The spectrum of every prefix.
    # Bins and tokens as the rows of one matrix: a product with more dimensions would need a view of N chunks
    # that torch.export can't prove where T stays open.
    within = [plane.flatten(1, 2)[:, None] for plane in _powers(c[:, None] - c, parameters)]
    since = _powers(c[:, None] + 1, parameters)
    carried = _product((since[0][:, None], since[1][:, None]), before, torch.mul)
    z_BHNFCd = [
        (plane @ v_BHNCd).unflatten(3, (-1, CHUNK)) + other
        for plane, other in zip(within, carried, strict=True)
    ]
    z_BTHFd = [joined(plane.permute(0, 2, 4, 1, 3, 5), values.shape[1]) for plane in z_BHNFCd]
    last = torch.stack([plane[:, -1] for plane in z_BTHFd], dim=3).permute(0, 2, 3, 1, 4)
    return _read_out(z_BTHFd[0], z_BTHFd[1], filter_, parameters, eps), last.contiguous()


def _read_out(
    real_BTHFd: Tensor, imag_BTHFd: Tensor, filter_: Tensor, parameters: HeadParameters, eps: float
) -> Tensor:
    filter_BTHF1 = filter_[..., None]
    square = real_BTHFd.square() + imag_BTHFd.square()
    is_zero = square == 0
    # The square root has no gradient at 0, hence the detour.
    modulus = torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    magnitude = filter_BTHF1.abs() * modulus
    gain = filter_BTHF1 * torch.relu(magnitude + parameters.bias[..., None]) / magnitude.clamp(min=eps)
    readout = parameters.readout[..., None]
    return (gain * (readout[:, :, 0] * real_BTHFd - readout[:, :, 1] * imag_BTHFd)).sum(dim=3)
