"""The portable backend of delta mixing: chunks of matrix products with a triangular solve, on any device.

Within a chunk of C tokens, with the time s since its beginning and the state Z_0 before it (docs/maths.md)::

    A_tj = Re sum_k conj(key_k(t)) exp((s(t) - s(j)) mu_k) key_k(j)   for j < t
    B_tj = Re sum_k filter_k(t) exp((s(t) - s(j)) mu_k) key_k(j)      for j <= t
    (I + diag(b) A) U = V - diag(b) P,   P_t = Re sum_k conj(key_k(t)) exp(s(t) mu_k) Z_0
    Y = B U + Re (filter exp(s mu)) Z_0

No exponent is ever positive, so nothing overflows however fast the clock runs.
"""

import torch
from torch import Tensor

from fftnet.ops.chunks import in_blocks

CHUNK = 16  # Tokens of which every pair has a score.


def _chunked(x: Tensor) -> Tensor:
    """Cut (B, T, H, ...) into (B, N, H, CHUNK, ...), with zeros behind the last token."""
    return in_blocks(x, CHUNK).transpose(2, 3)


def _turned(planes: Tensor, angle: Tensor) -> Tensor:
    """Return planes (..., 2, F) times ``exp(i angle)`` as 2 F real numbers."""
    real, imag = planes.unbind(dim=-2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([real * cos - imag * sin, imag * cos + real * sin], dim=-1)


def delta_mix(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.delta_mix.delta_mix``."""
    values, key, filter_, erase, clock, decay, frequency, state = tensors
    v_BNHCd = _chunked(values)
    clock_BNHC = _chunked(clock)
    erase_BNHC1 = _chunked(erase)[..., None]
    # The angle of a pair is a difference of two angles, so keys and filters turn before: with K = 2 F real
    # numbers each, the real part of a complex product is a plain sum.
    time_BNHC1 = clock_BNHC.cumsum(dim=3)[..., None]
    angle_BNHCF = time_BNHC1 * frequency[:, None]
    key_BNHCK = _turned(_chunked(key), -angle_BNHCF)
    conjugate = torch.tensor([[1.0], [-1.0]], dtype=filter_.dtype, device=filter_.device)
    filter_BNHCK = _turned(_chunked(filter_) * conjugate, -angle_BNHCF)
    decay_H1K = torch.cat([decay, decay], dim=1)[:, None]
    past_CC = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=values.device).tril()
    age_BNHCC = (time_BNHC1 - time_BNHC1.transpose(3, 4)).masked_fill(~past_CC, 0.0)
    fading_BNHCCK = torch.exp(-age_BNHCC[..., None] * decay_H1K[:, None]) * past_CC[..., None]
    faded_BNHCCK = fading_BNHCCK * key_BNHCK[..., None, :, :]
    read_BNHCC = (filter_BNHCK[..., None, :] * faded_BNHCCK).sum(dim=-1)
    found_BNHCC = (key_BNHCK[..., None, :] * faded_BNHCCK).sum(dim=-1).tril(-1) * erase_BNHC1

    since_BNHCK = torch.exp(-time_BNHC1 * decay_H1K)
    probe_BNHCK = erase_BNHC1 * key_BNHCK * since_BNHCK
    unit = torch.eye(CHUNK, dtype=v_BNHCd.dtype, device=values.device)
    right = torch.cat([v_BNHCd, probe_BNHCK], dim=-1)
    solved = torch.linalg.solve_triangular(unit + found_BNHCC, right, upper=False, unitriangular=True)
    own_BNHCd, probe_BNHCK = solved.split([values.shape[3], key_BNHCK.shape[-1]], dim=-1)
    reader_BNHCK = filter_BNHCK * since_BNHCK
    writer_BNHCK = key_BNHCK * fading_BNHCCK[..., -1, :, :]

    z_BHKd = state.flatten(2, 3)
    mixed = []
    for n in range(v_BNHCd.shape[1]):
        written_BHCd = own_BNHCd[:, n] - probe_BNHCK[:, n] @ z_BHKd
        mixed.append(reader_BNHCK[:, n] @ z_BHKd + read_BNHCC[:, n] @ written_BHCd)
        z_BHKd = since_BNHCK[:, n, :, -1, :, None] * z_BHKd + writer_BNHCK[:, n].mT @ written_BHCd
        z_BHKd = _turned_state(z_BHKd, angle_BNHCF[:, n, :, -1])
    mixed_BTHd = torch.stack(mixed, dim=1).transpose(2, 3).flatten(1, 2)[:, : values.shape[1]]
    return mixed_BTHd, z_BHKd.unflatten(2, (2, -1))


def _turned_state(z_BHKd: Tensor, angle_BHF: Tensor) -> Tensor:
    """Turn the state by what the keys and filters of the next chunk no longer see."""
    return _turned(z_BHKd.unflatten(2, (2, -1)).movedim(4, 2), angle_BHF[:, :, None]).transpose(2, 3)
