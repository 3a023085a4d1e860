"""The portable backend of keyed mixing: chunks of matrix products, on any device.

Within a chunk every pair of tokens has one score, ``Re sum_k filter_k(t) exp((s(t) - s(j)) mu_k) key_k(j)``;
earlier tokens enter through the state. No exponent is ever positive, so nothing overflows however fast the
clock runs. Steps 3 and 6 of section 3 of docs/maths.md.

Gradients of complex numbers are written without conjugation here: ``g`` of ``z`` means dL = Re(g dz).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fftnet.ops.chunks import in_blocks
from fftnet.ops.numerics import to_complex, to_planes

BLOCK = 256  # Tokens between two checkpoints of the state.
CHUNK = 16  # Tokens of which every pair has a score; divides `BLOCK`.


class _Block(NamedTuple):
    """A block cut into N chunks of C tokens, its powers, the state before each chunk and after the block.

    With the time s since the beginning of the chunk, ``kernel`` is ``exp((s(t) - s(j)) mu)``, 0 where j > t;
    ``since_start`` is ``exp(s(t) mu)``, and ``until_end`` is ``exp((s(C) - s(t)) mu)``.
    """

    v_BNHCd: Tensor
    key_BNHCF: Tensor
    filter_BNHCF: Tensor
    kernel_BNHCCF: Tensor
    since_start_BNHCF: Tensor
    until_end_BNHCF: Tensor
    starts_BNHFd: Tensor
    end_BHFd: Tensor


def _chunked(x: Tensor) -> Tensor:
    """Cut (B, T, H, ...) into (B, N, H, CHUNK, ...), with zeros behind the last token."""
    return in_blocks(x, CHUNK).transpose(2, 3)


def _joined(x: Tensor, tokens: int) -> Tensor:
    """Undo ``_chunked``, without the padding."""
    return x.transpose(2, 3).flatten(1, 2)[:, :tokens]


def _cut(
    values: Tensor, key: Tensor, filter_: Tensor, clock: Tensor, rate_HF: Tensor, start_BHFd: Tensor
) -> _Block:
    # A padded token has a key and a filter of 0 and takes no time: it changes nothing.
    v_BNHCd = _chunked(values).to(rate_HF.dtype)
    key_BNHCF = torch.complex(*map(_chunked, key.unbind(dim=3)))
    filter_BNHCF = torch.complex(*map(_chunked, filter_.unbind(dim=3)))
    time_BNHC = _chunked(clock).cumsum(dim=3)
    rate_HCF = rate_HF[:, None]
    # Ages of later tokens count as 0: their exponential could overflow, and 0 times infinity is NaN.
    past_CC = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=values.device).tril()
    age_BNHCC = (time_BNHC[..., None] - time_BNHC[..., None, :]).masked_fill(~past_CC, 0.0)
    kernel_BNHCCF = torch.exp(age_BNHCC[..., None] * rate_HCF[:, None]) * past_CC[..., None]
    since_start_BNHCF = torch.exp(time_BNHC[..., None] * rate_HCF)
    until_end_BNHCF = torch.exp((time_BNHC[..., -1:] - time_BNHC)[..., None] * rate_HCF)
    # What the tokens of a chunk add to the state at its end. Only the sum over chunks needs a loop.
    added_BNHFd = (key_BNHCF * until_end_BNHCF).transpose(-1, -2) @ v_BNHCd
    starts = []
    for added_BHFd, power_BHCF in zip(added_BNHFd.unbind(1), since_start_BNHCF.unbind(1), strict=True):
        starts.append(start_BHFd)
        start_BHFd = power_BHCF[:, :, -1, :, None] * start_BHFd + added_BHFd
    powers = (kernel_BNHCCF, since_start_BNHCF, until_end_BNHCF)
    return _Block(v_BNHCd, key_BNHCF, filter_BNHCF, *powers, torch.stack(starts, dim=1), start_BHFd)


def _score(block: _Block) -> Tensor:
    pairs = block.filter_BNHCF[..., None, :] * block.kernel_BNHCCF * block.key_BNHCF[:, :, :, None]
    return pairs.sum(dim=-1).real


def keyed_spectrum(
    values: Tensor, key: Tensor, clock: Tensor, decay: Tensor, frequency: Tensor, state: Tensor
) -> Tensor:
    """Return the keyed spectrum of every prefix, token by token: complex (B, T, H, F, d), differentiable."""
    key_BTHF1 = to_complex(key, 3)[..., None]
    pole_BTHF1 = torch.exp(clock[..., None] * torch.complex(-decay, frequency))[..., None]
    z_BHFd = to_complex(state, 2)
    spectra = []
    for t in range(values.shape[1]):
        z_BHFd = pole_BTHF1[:, t] * z_BHFd + key_BTHF1[:, t] * values[:, t, :, None]
        spectra.append(z_BHFd)
    return torch.stack(spectra, dim=1)


def forward(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix`` and ``fftnet.ops.registration``."""
    values, key, filter_, clock, decay, frequency, state = tensors
    rate_HF = torch.complex(-decay, frequency)
    carry_BHFd = to_complex(state, 2)
    mixed = []
    checkpoints = []
    for start in range(0, values.shape[1], BLOCK):
        span = slice(start, start + BLOCK)
        checkpoints.append(to_planes(carry_BHFd, 2))
        block = _cut(values[:, span], key[:, span], filter_[:, span], clock[:, span], rate_HF, carry_BHFd)
        carry_BHFd = block.end_BHFd
        # Step 6: tokens of the same chunk by their scores, all earlier ones by the state.
        near_BNHCd = _score(block) @ block.v_BNHCd.real
        far_BNHCd = ((block.filter_BNHCF * block.since_start_BNHCF) @ block.starts_BNHFd).real
        mixed.append(_joined(near_BNHCd + far_BNHCd, values[:, span].shape[1]))
    return torch.cat(mixed, dim=1), to_planes(carry_BHFd, 2), torch.stack(checkpoints, dim=1)


def backward(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Walk the blocks backwards, each computed once more from its checkpoint."""
    values, key, filter_, clock, decay, frequency, checkpoints, last, grad_mixed, grad_last = tensors
    rate_HF = torch.complex(-decay, frequency)
    carry_BHFd = to_complex(grad_last, 2).conj()
    # Gradient of the exponent of all that has been written: later tokens read it, and the state.
    exponent_BHF = (to_complex(last, 2) * carry_BHFd).sum(dim=-1)
    grad_rate_HF = torch.zeros_like(rate_HF)
    grad_values, grad_key, grad_filter, grad_clock = map(torch.empty_like, (values, key, filter_, clock))
    for n in reversed(range(checkpoints.shape[1])):
        span = slice(n * BLOCK, (n + 1) * BLOCK)
        streams = (values[:, span], key[:, span], filter_[:, span], clock[:, span])
        block = _cut(*streams, rate_HF, to_complex(checkpoints[:, n], 2))
        grad_values[:, span], grad_key_BTHF, grad_filter_BTHF, carry_BHFd = _block_backward(
            block, grad_mixed[:, span], carry_BHFd
        )
        grad_key[:, span] = to_planes(grad_key_BTHF.conj(), 3)
        grad_filter[:, span] = to_planes(grad_filter_BTHF.conj(), 3)
        # A reading at t moves with exp(s(t) mu), a writing at t with exp(-s(t) mu), and s(t) is the clock's
        # sum up to t. So the gradient of clock(t) mu is a sum over t and all later tokens.
        moved_BTHF = to_complex(filter_[:, span], 3) * grad_filter_BTHF
        moved_BTHF = moved_BTHF - to_complex(key[:, span], 3) * grad_key_BTHF
        exponents_BTHF = moved_BTHF.flip(1).cumsum(dim=1).flip(1) + exponent_BHF[:, None]
        exponent_BHF = exponents_BTHF[:, 0]
        grad_clock[:, span] = (exponents_BTHF * rate_HF).real.sum(dim=-1)
        grad_rate_HF += (exponents_BTHF * clock[:, span, :, None]).sum(dim=(0, 1))
    grad_state = to_planes(carry_BHFd.conj(), 2)
    return grad_values, grad_key, grad_filter, grad_clock, -grad_rate_HF.real, -grad_rate_HF.imag, grad_state


def _block_backward(
    block: _Block, grad_mixed: Tensor, carry_BHFd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of values, keys, filters and state; the carry is that of the state after it."""
    tokens = grad_mixed.shape[1]
    grad_BNHCd = _chunked(grad_mixed).to(carry_BHFd.dtype)
    # The gradient of the state after each chunk, from the last to the first.
    read_BNHFd = (block.filter_BNHCF * block.since_start_BNHCF).transpose(-1, -2) @ grad_BNHCd
    ends = []
    for m in reversed(range(read_BNHFd.shape[1])):
        ends.append(carry_BHFd)
        carry_BHFd = block.since_start_BNHCF[:, m, :, -1, :, None] * carry_BHFd + read_BNHFd[:, m]
    ends_BNHFd = torch.stack(ends[::-1], dim=1)

    # Each gradient has a part from the same chunk, by the kernel, and one from other chunks, by a state.
    product_BNHCC = grad_BNHCd @ block.v_BNHCd.transpose(-1, -2)
    kernel_BNHCCF = block.kernel_BNHCCF * product_BNHCC[..., None]
    near_BNHCd = _score(block).transpose(-1, -2) @ grad_BNHCd.real
    far_BNHCd = ((block.key_BNHCF * block.until_end_BNHCF) @ ends_BNHFd).real
    grad_values = _joined(near_BNHCd + far_BNHCd, tokens)
    near_BNHCF = (kernel_BNHCCF * block.filter_BNHCF[..., None, :]).sum(dim=3)
    far_BNHCF = block.until_end_BNHCF * (block.v_BNHCd @ ends_BNHFd.transpose(-1, -2))
    grad_key_BTHF = _joined(near_BNHCF + far_BNHCF, tokens)
    near_BNHCF = (kernel_BNHCCF * block.key_BNHCF[:, :, :, None]).sum(dim=4)
    far_BNHCF = block.since_start_BNHCF * (grad_BNHCd @ block.starts_BNHFd.transpose(-1, -2))
    grad_filter_BTHF = _joined(near_BNHCF + far_BNHCF, tokens)
    return grad_values, grad_key_BTHF, grad_filter_BTHF, carry_BHFd
