"""Keyed mixing in real numbers and without a loop over time, for exported programs.

Other runtimes know every operation here, and none depends on the values: the number of tokens may stay open.
Within a chunk every pair of tokens has one score; the state before each chunk is a sum over the chunks before
it, O(T^2 / CHUNK^2) in time and memory. A number that is not finite spoils its whole row, so this backend is
not for training. No exponent is ever positive. Steps 3 and 6 of section 3 of docs/maths.md.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.chunks import Planes, ages, chunked, joined, not_later, product


def _rotated(planes: Planes, angle: Tensor) -> Planes:
    """Return a complex number times ``exp(i angle)``."""
    return product(planes, (angle.cos(), angle.sin()), torch.mul)


def keyed_mix(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix.keyed_mix``."""
    values, key, filter_, clock, decay, frequency, state = tensors
    v_BHNCd = chunked(values).movedim(3, 1)
    # A padded token takes no time and writes nothing.
    clock_BHNC = chunked(clock).movedim(3, 1)
    time_BHNC1 = clock_BHNC.cumsum(dim=3)[..., None]
    decay_H11F = decay[:, None, None]
    frequency_H11F = frequency[:, None, None]
    angle_BHNCF = time_BHNC1 * frequency_H11F
    key_BHNCF = _rotated(_planes(key), -angle_BHNCF)
    filter_BHNCF = _rotated(_planes(filter_), angle_BHNCF)

    # Scores of the tokens of a chunk. The angle of a pair is the difference of two angles, so keys and
    # filters are rotated before. Its decay is not split, since one of the two exponentials could overflow.
    age_BHNCC = ages(clock_BHNC)
    decay_BHNCCF = torch.exp(-age_BHNCC[..., None] * decay_H11F[:, None]) * not_later(clock_BHNC)[..., None]
    pairs_BHNCCF = (
        filter_BHNCF[0][..., None, :] * key_BHNCF[0][..., None, :, :]
        - filter_BHNCF[1][..., None, :] * key_BHNCF[1][..., None, :, :]
    )
    near_BHNCd = (pairs_BHNCCF * decay_BHNCCF).sum(dim=-1) @ v_BHNCd

    # What each chunk adds to the state at its end, and the state before each.
    until_end_BHNCF = torch.exp(-age_BHNCC[..., -1, :, None] * decay_H11F)
    real_BHNFd, imag_BHNFd = ((plane * until_end_BHNCF).transpose(-1, -2) @ v_BHNCd for plane in key_BHNCF)
    added_BHNFd = _rotated((real_BHNFd, imag_BHNFd), angle_BHNCF[..., -1, :, None])
    before_BHNFd, last_BHFd = _states(added_BHNFd, time_BHNC1[..., -1, 0], decay, frequency, state)
    since_start_BHNCF = torch.exp(-time_BHNC1 * decay_H11F)
    real_BHNCd = (filter_BHNCF[0] * since_start_BHNCF) @ before_BHNFd[0]
    imag_BHNCd = (filter_BHNCF[1] * since_start_BHNCF) @ before_BHNFd[1]
    mixed_BNCHd = (near_BHNCd + real_BHNCd - imag_BHNCd).movedim(1, 3)
    return joined(mixed_BNCHd, values.shape[1]), torch.stack(last_BHFd, dim=2)


def _states(
    added_BHNFd: Planes, time_BHN: Tensor, decay: Tensor, frequency: Tensor, state: Tensor
) -> tuple[Planes, Planes]:
    """Return the state before each chunk, and the one after the last.

    Entry 0 is the state before the first chunk, entry n what chunk n - 1 has added; the state before chunk n
    is the sum of the entries up to n.
    """
    first_BH1Fd = state[:, :, :, None].unbind(dim=2)
    entries_BHFMd = [
        torch.cat(both, dim=2).transpose(2, 3) for both in zip(first_BH1Fd, added_BHNFd, strict=True)
    ]
    time_BHM = functional.pad(time_BHN, (1, 0))
    age_BHFMM = ages(time_BHM)[:, :, None]
    radius_BHFMM = torch.exp(-age_BHFMM * decay[..., None, None]) * not_later(time_BHM)
    angle_BHFMM = age_BHFMM * frequency[..., None, None]
    kernel_BHFMM = (radius_BHFMM * angle_BHFMM.cos(), radius_BHFMM * angle_BHFMM.sin())
    real_BHFMd, imag_BHFMd = product(kernel_BHFMM, (entries_BHFMd[0], entries_BHFMd[1]), torch.matmul)
    before = (real_BHFMd[:, :, :, :-1].transpose(2, 3), imag_BHFMd[:, :, :, :-1].transpose(2, 3))
    return before, (real_BHFMd[:, :, :, -1], imag_BHFMd[:, :, :, -1])


def _planes(x_BTH2F: Tensor) -> Planes:
    real, imag = x_BTH2F.unbind(dim=3)
    return chunked(real).movedim(3, 1), chunked(imag).movedim(3, 1)
