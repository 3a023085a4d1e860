"""The CUDA backend of keyed mixing: chunks of time in parallel, with matrix products wherever they fit.

With the time s(t) since the beginning of its chunk, keys are rotated by ``exp(-i s(t) frequency)`` and
filters by the opposite angle, once a token. The rest is real: in each bin both planes of the spectrum decay
alike,

    X(t) = exp(-clock(t) decay) X(t-1) + key(t) v(t),   y(t) = sum over planes and bins of filter(t) X(t)

with conjugate filters, so that a read-out is a plain sum. Forward: the contribution of every chunk to the
state (``ends``); a scan over the chunks, which gives the state before each (``sweep``); then the outputs of
every stretch of 16 tokens (``read``): from the state before its chunk, from earlier stretches of the chunk by
two matrix products, and from its own tokens with a weight for each pair and bin. Ages are counted from the
edges of chunks and stretches, so that no exponent is ever positive however fast the clock runs.

Backward is the same with time reversed. The gradient of the values exchanges keys with filters; those of
filters and keys exchange bins with channels (``match``). The gradients of clock, decay and frequency follow.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.chunks import in_blocks
from fftnet.ops.gpu.scan import sweep
from fftnet.ops.gpu.tiles import BLOCK
from fftnet.ops.keyed_mix.triton_kernels import ends, match, read


def _rotate(planes_BTH2F: Tensor, rotation_BTH2F: Tensor, back: bool = False) -> Tensor:
    """Rotate by ``exp(-i angle)``, or back by ``exp(i angle)``, from the angle's cosine and sine."""
    real, imag = planes_BTH2F.unbind(dim=3)
    cosine, sine = rotation_BTH2F.unbind(dim=3)
    sine = -sine if back else sine
    return torch.stack([real * cosine + imag * sine, imag * cosine - real * sine], dim=3)


def _conjugate(planes_BTH2F: Tensor) -> Tensor:
    real, imag = planes_BTH2F.unbind(dim=3)
    return torch.stack([real, -imag], dim=3)


def _clock_factors(clock: Tensor, decay: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return time since the chunk's start (B, T, H), and cosine and sine of its angle (B, T, H, 2, F).

    Then the latter and the decay factor of a state over whole chunks, (B, N, H, 2, F) and (B, N, H, F).
    """
    tokens = clock.shape[1]
    # Time restarts in every chunk, so that angles and ages stay small in a long text.
    blocks = in_blocks(clock, BLOCK)
    time = blocks.cumsum(dim=2).flatten(1, 2)[:, :tokens].contiguous()
    angle = time[..., None] * frequency
    rotation = torch.stack([angle.cos(), angle.sin()], dim=3)
    # The last chunk may be shorter: its last token is the last of the row.
    last = torch.arange(BLOCK - 1, BLOCK * blocks.shape[1], BLOCK, device=clock.device).clamp(max=tokens - 1)
    chunk_decay = torch.exp(-time[:, last, :, None] * decay)
    return time, rotation, rotation[:, last].contiguous(), chunk_decay


def forward(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    values, key, filter_, clock, decay, frequency, state = tensors
    with torch.cuda.device_of(values):
        time, rotation, *chunks = _clock_factors(clock, decay, frequency)
        key = _rotate(key, rotation)
        filter_ = _rotate(_conjugate(filter_), rotation)
        added = ends(key, values, time, decay)
        checkpoints, last = sweep(values.shape[1], added, state, *chunks)
        mixed = read(filter_, key, values, time, decay, checkpoints)
    return mixed, last, checkpoints


def backward(*tensors: Tensor) -> tuple[Tensor, ...]:
    """See ``fftnet.ops.registration`` for the contract of a backend."""
    values, key, filter_, clock, decay, frequency, checkpoints, last, grad_mixed, grad_state = tensors
    with torch.cuda.device_of(values):
        time, rotation, *chunks = _clock_factors(clock, decay, frequency)
        rotated_key = _rotate(key, rotation)
        rotated_filter = _rotate(_conjugate(filter_), rotation)
        # Time reversed: read-outs write into the gradient of the state, and keys read it.
        added = ends(rotated_filter, grad_mixed, time, decay, reverse=True)
        later, grad_start = sweep(values.shape[1], added, grad_state, *chunks, reverse=True)
        grad_values = read(rotated_key, rotated_filter, grad_mixed, time, decay, later, reverse=True)
        grad_filter = match(grad_mixed, values, rotated_key, time, decay, checkpoints)
        grad_key = match(values, grad_mixed, rotated_filter, time, decay, later, reverse=True)
    grad_filter = _conjugate(_rotate(grad_filter, rotation, back=True))
    grad_key = _rotate(grad_key, rotation, back=True)
    # A read-out at t contains exp(S(t) mu), a write exp(-S(t) mu), with the sum S(t) of the clock up to t. So
    # the gradient of clock(t) mu is the sum over all later ones. The state is read after the last token.
    read_re, read_im = _exponent(filter_, grad_filter, 3)
    written_re, written_im = _exponent(key, grad_key, 3)
    state_re, state_im = _exponent(last, grad_state, 2)
    slope_re = _sum_later(read_re - written_re) + state_re.sum(dim=-1)[:, None]
    slope_im = _sum_later(read_im - written_im) + state_im.sum(dim=-1)[:, None]
    grad_clock = (slope_im * frequency - slope_re * decay).sum(dim=-1)
    grad_decay = -(slope_re * clock[..., None]).sum(dim=(0, 1))
    grad_frequency = (slope_im * clock[..., None]).sum(dim=(0, 1))
    return grad_values, grad_key, grad_filter, grad_clock, grad_decay, grad_frequency, grad_start


def _exponent(z: Tensor, grad: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of a and b, where ``z`` is ``exp(a + i b)`` times something, from that of z."""
    real, imag = z.unbind(dim)
    grad_re, grad_im = grad.unbind(dim)
    return real * grad_re + imag * grad_im, real * grad_im - imag * grad_re


def _sum_later(x: Tensor) -> Tensor:
    """Return sums over this and all later tokens, (B, T, ...); in chunks, since a row has one GPU thread."""
    tokens = x.shape[1]
    # Within blocks, then over the sums of the blocks behind.
    within = in_blocks(x, BLOCK).flip(2).cumsum(dim=2).flip(2)
    following = within[:, 1:, 0].flip(1).cumsum(dim=1).flip(1)
    later = functional.pad(following, (0, 0) * (x.ndim - 2) + (0, 1))
    return (within + later[:, :, None]).flatten(1, 2)[:, :tokens]
