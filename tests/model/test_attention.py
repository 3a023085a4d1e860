"""Bidirectional attention against sums over single tokens in float64."""

import math

import pytest
import torch
from conftest import assert_same, randomise
from torch import Tensor

from fftnet.model.mixers.attention import BidirectionalAttentionMixer


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


@pytest.mark.parametrize("length", [1, 2, 7, 12, 31])
def test_values_and_gradients_are_those_of_the_direct_sum(length: int) -> None:
    mixer = randomise(BidirectionalAttentionMixer(12, 3))
    x = torch.randn(2, length, 12, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([direct(mixer, row) for row in x])
    assert_same(mixer(x), expected, [x, *mixer.parameters()])
