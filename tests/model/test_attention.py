"""Bidirectional attention against sums over single tokens in float64, with padding anywhere."""

import math

import pytest
import torch
from conftest import randomise
from torch import Tensor

from fftnet.model.mixers import build_mixer
from fftnet.model.mixers.attention import BidirectionalAttentionMixer

LENGTHS = [1, 2, 7, 12, 31]


def mixer_of(width: int = 12, heads: int = 3) -> BidirectionalAttentionMixer:
    return randomise(build_mixer("bidirectional_attention", width, heads))


def rotated(x_d: Tensor, position: int) -> Tensor:
    """Return a query or key as complex channels, each rotated at its own rate."""
    half = len(x_d) // 2
    rates = torch.tensor([10000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)
    return torch.complex(x_d[:half], x_d[half:]) * torch.exp(1j * position * rates)


def direct(mixer: BidirectionalAttentionMixer, x_TD: Tensor) -> Tensor:
    """Return the mixed tokens of one row without padding."""
    heads = mixer.num_heads
    q, k, v = ((x_TD @ weight.T).unflatten(1, (heads, -1)) for weight in mixer.project_in.weight.chunk(3))
    rows = []
    for t in range(len(x_TD)):
        parts = []
        for head in range(heads):
            query = rotated(q[t, head], t)
            scores = [
                (query * rotated(k[s, head], s).conj()).real.sum() / math.sqrt(q.shape[-1])
                for s in range(len(x_TD))
            ]
            sizes = [torch.exp(score) for score in scores]
            total = sum(size * v[s, head] for s, size in enumerate(sizes))
            parts.append(total / sum(sizes))
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ mixer.project_out.weight.T


@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_are_those_of_the_direct_sum(length: int) -> None:
    mixer = mixer_of()
    x = torch.randn(2, length, 12, dtype=torch.float64, requires_grad=True)
    actual = mixer(x)
    expected = torch.stack([direct(mixer, row) for row in x])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(actual)
    leaves = [x, *mixer.parameters()]
    gradients = [torch.autograd.grad(result, leaves, upstream) for result in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("filling", [1e3, math.nan])
def test_padding_anywhere_is_zero_and_changes_nothing(length: int, filling: float) -> None:
    mixer = mixer_of()
    # Rows with gaps, with different numbers of tokens, and one without tokens.
    mask = torch.rand(4, length + 3) < 0.7
    mask[0] = torch.arange(length + 3) >= 3
    mask[3] = False
    tokens = torch.randn(4, length + 3, 12, dtype=torch.float64)
    x = tokens.masked_fill(~mask[..., None], filling).requires_grad_()
    actual = mixer(x, mask)
    assert (actual[~mask] == 0).all()
    clean = tokens.clone().requires_grad_()
    expected = torch.zeros_like(tokens)
    for row in range(3):
        if mask[row].any():
            expected[row, mask[row]] = mixer(clean[row, mask[row]][None])[0]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, [x, *mixer.parameters()], upstream)
    alone = torch.autograd.grad(expected, [clean, *mixer.parameters()], upstream)
    torch.testing.assert_close(gradients, alone, rtol=1e-9, atol=1e-9)


def test_positions_matter_and_every_token_sees_every_other() -> None:
    mixer = mixer_of()
    x = torch.randn(1, 7, 12, dtype=torch.float64)
    swapped = torch.tensor([0, 2, 1, 3, 4, 5, 6])
    assert not torch.allclose(mixer(x[:, swapped])[:, swapped], mixer(x))
    for changed in range(7):
        other = x.clone()
        other[:, changed] += 1
        assert ((mixer(other) - mixer(x)).abs().amax(dim=2) > 1e-6).all()
