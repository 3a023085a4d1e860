"""Arithmetic of several operators or of one form only: modReLU, attention, Fourier transforms."""

import pytest
import torch
from conftest import assert_same

from fftnet.ops import attention, fourier, numerics


def test_modrelu_passes_gradcheck_and_keeps_the_phase() -> None:
    z = torch.randn(4, 5, dtype=torch.complex128, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(numerics.modrelu, (z, bias))
    turn = torch.polar(torch.ones(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64))
    torch.testing.assert_close(numerics.modrelu(turn * z, bias), turn * numerics.modrelu(z, bias))


def test_modrelu_gradient_is_finite_at_zero() -> None:
    z = torch.zeros(3, dtype=torch.complex128, requires_grad=True)
    numerics.modrelu(z, torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)).abs().square().sum().backward()
    assert z.grad is not None
    assert torch.isfinite(torch.view_as_real(z.grad)).all()


@pytest.mark.parametrize(("length", "seen"), [(1, 1), (2, 2), (17, 17), (1, 9), (5, 12), (300, 311)])
@pytest.mark.parametrize("ragged", [False, True])
def test_attention_matches_a_direct_softmax(length: int, seen: int, ragged: bool) -> None:
    q, keys, values = (
        torch.randn(2, n, 3, 4, dtype=torch.float64, requires_grad=True) for n in (length, seen, seen)
    )
    last = torch.tensor([seen - 1, seen // 2 if ragged else seen - 1])
    position = (last[:, None] - torch.arange(length).flip(0)).clamp(min=0)
    actual = attention.causal_attention(q, keys, values, position if ragged else None)
    score = torch.einsum("bthd,bshd->bths", q, keys) / 2.0
    weight = score.exp() * (torch.arange(seen) <= position[:, :, None, None])
    expected = torch.einsum("bths,bshd->bthd", weight / weight.sum(dim=-1, keepdim=True), values)
    assert_same(actual, expected, (q, keys, values))


def test_rotary_positions_turn_complex_pairs_and_see_distances_only() -> None:
    x, y = torch.randn(2, 2, 7, 3, 6, dtype=torch.float64)
    position = torch.randint(0, 5000, (2, 7))
    rate = 10000.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    turned = torch.complex(x[..., :3], x[..., 3:]) * torch.exp(1j * position[..., None, None] * rate)
    actual = attention.rotate(x, position)
    torch.testing.assert_close(actual, torch.cat([turned.real, turned.imag], dim=-1), rtol=1e-9, atol=1e-9)
    product = (actual * attention.rotate(y, position + 3)).sum(dim=-1)
    later = (attention.rotate(x, position + 99) * attention.rotate(y, position + 102)).sum(dim=-1)
    torch.testing.assert_close(product, later, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 13, 16])
def test_fourier_mixing_matches_the_direct_sum(length: int) -> None:
    x = torch.randn(2, length, 6, dtype=torch.float64, requires_grad=True)
    t = torch.arange(length, dtype=torch.float64)
    c = torch.arange(6, dtype=torch.float64)
    angle = t[:, None, None, None] * t[:, None] / length + c[:, None, None] * c / 6
    kernel = torch.cos(2 * torch.pi * angle) / (6 * length) ** 0.5
    assert_same(fourier.fourier_mix(x), torch.einsum("tcsd,bsd->btc", kernel, x), [x])
