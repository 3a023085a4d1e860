"""The CUDA backend of keyed mixing: chunks of time in parallel, with matrix products wherever one will do.

With the time s(t) since the beginning of its chunk, keys are turned by ``exp(-i s(t) frequency)`` and filters
by the opposite, once a token. What is left is real: in each bin both planes of the spectrum decay alike,

    X(t) = exp(-clock(t) decay) X(t-1) + key(t) v(t),   y(t) = sum over planes and bins of filter(t) X(t)

(filters are kept conjugate, so that a read-out is a plain sum). Forward: what every chunk adds to the state
(``_ends``); a scan over the chunks, which gives the state before each (``_carry``); then the outputs of every
stretch of 16 tokens (``_read``): from the state before its chunk, from earlier stretches of the chunk by two
products of matrices, and from its own tokens with a weight for each pair and bin. Ages are counted from the
edges of chunks and stretches, so that no exponent is ever positive however fast the clock runs.

Backward is the same with time reversed and the roles of keys and filters exchanged for the gradient of the
values, and with those of bins and channels exchanged for the gradients of filters and keys (``_match``). The
gradients of clock, decay and frequency follow from these.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fftnet.ops.chunks import in_blocks
from fftnet.ops.keyed_mix.triton_kernels import ends, match, read
from fftnet.ops.keyed_mix.triton_tiles import BLOCK, sweep


def _turn(planes_BTH2F: Tensor, turns_BTH2F: Tensor, back: bool = False) -> Tensor:
    """Turn by ``exp(-i angle)``, or back by ``exp(i angle)``, from the angle's cosine and sine."""
    real, imag = planes_BTH2F.unbind(dim=3)
    cosine, sine = turns_BTH2F.unbind(dim=3)
    sine = -sine if back else sine
    return torch.stack([real * cosine + imag * sine, imag * cosine - real * sine], dim=3)


def _conjugate(planes_BTH2F: Tensor) -> Tensor:
    real, imag = planes_BTH2F.unbind(dim=3)
    return torch.stack([real, -imag], dim=3)


def _turns(clock: Tensor, decay: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the clock means for every token and chunk.

    Returns:
        The time since the beginning of its chunk, (B, T, H); cosine and sine of the angle by which every bin
        turns in that time, (B, T, H, 2, F); the same for whole chunks, (B, N, H, 2, F), and what a chunk
        leaves of a state, (B, N, H, F).
    """
    tokens = clock.shape[1]
    blocks = in_blocks(clock, BLOCK)
    time = blocks.cumsum(dim=2).flatten(1, 2)[:, :tokens].contiguous()
    angle = time[..., None] * frequency
    turns = torch.stack([angle.cos(), angle.sin()], dim=3)
    last = torch.arange(BLOCK - 1, BLOCK * blocks.shape[1], BLOCK, device=clock.device).clamp(max=tokens - 1)
    fallen = torch.exp(-time[:, last, :, None] * decay)
    return time, turns, turns[:, last].contiguous(), fallen


def forward(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix`` for the contract of a backend."""
    with torch.cuda.device_of(values):
        time, turns, chunk_turns, fallen = _turns(clock, decay, frequency)
        turned_key = _turn(key, turns)
        turned_filter = _turn(_conjugate(filter_), turns)
        added = ends(turned_key, values, time, decay)
        checkpoints, last = sweep(values.shape[1], added, state, chunk_turns, fallen, reverse=False)
        mixed = read(turned_filter, turned_key, values, time, decay, checkpoints)
    return mixed, last, checkpoints


def backward(
    values: Tensor,
    key: Tensor,
    filter_: Tensor,
    clock: Tensor,
    decay: Tensor,
    frequency: Tensor,
    checkpoints: Tensor,
    last: Tensor,
    grad_mixed: Tensor,
    grad_state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.keyed_mix`` for the contract of a backend."""
    with torch.cuda.device_of(values):
        time, turns, chunk_turns, fallen = _turns(clock, decay, frequency)
        turned_key = _turn(key, turns)
        turned_filter = _turn(_conjugate(filter_), turns)
        added = ends(turned_filter, grad_mixed, time, decay, reverse=True)
        later, grad_start = sweep(values.shape[1], added, grad_state, chunk_turns, fallen, reverse=True)
        grad_values = read(turned_key, turned_filter, grad_mixed, time, decay, later, reverse=True)
        grad_filter = match(grad_mixed, values, turned_key, time, decay, checkpoints)
        grad_key = match(values, grad_mixed, turned_filter, time, decay, later, reverse=True)
    grad_filter = _conjugate(_turn(grad_filter, turns, back=True))
    grad_key = _turn(grad_key, turns, back=True)
    # A reading at t moves with exp(S(t) mu), a writing with exp(-S(t) mu), where S(t) is the clock's sum up
    # to t: the gradient of clock(t) mu is the sum over all later ones, and the state is read after the last.
    moved_r, moved_i = _exponent(filter_, grad_filter, 3)
    written_r, written_i = _exponent(key, grad_key, 3)
    state_r, state_i = _exponent(last, grad_state, 2)
    slope_r = _sum_later(moved_r - written_r) + state_r.sum(dim=-1)[:, None]
    slope_i = _sum_later(moved_i - written_i) + state_i.sum(dim=-1)[:, None]
    grad_clock = (slope_i * frequency - slope_r * decay).sum(dim=-1)
    grad_decay = -(slope_r * clock[..., None]).sum(dim=(0, 1))
    grad_frequency = (slope_i * clock[..., None]).sum(dim=(0, 1))
    return grad_values, grad_key, grad_filter, grad_clock, grad_decay, grad_frequency, grad_start


def _exponent(z: Tensor, grad: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The gradients of a and b where ``z`` is ``exp(a + i b)`` times something, from that of z."""
    real, imag = z.unbind(dim)
    grad_r, grad_i = grad.unbind(dim)
    return real * grad_r + imag * grad_i, real * grad_i - imag * grad_r


def _sum_later(x: Tensor) -> Tensor:
    """Sums over this and all later tokens, (B, T, ...); in chunks, since a GPU takes one thread for a row."""
    tokens = x.shape[1]
    within = in_blocks(x, BLOCK).flip(2).cumsum(dim=2).flip(2)
    following = within[:, 1:, 0].flip(1).cumsum(dim=1).flip(1)
    later = functional.pad(following, (0, 0) * (x.ndim - 2) + (0, 1))
    return (within + later[:, :, None]).flatten(1, 2)[:, :tokens]
