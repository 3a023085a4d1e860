"""One token at a time: both forms of the decode step's operations against the general ones at T = 1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fftnet.ops import causal_mix as prefix
from fftnet.ops import decode, streaming


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def mix_inputs(batch: int, heads: int, width: int, bins: int) -> list[Tensor]:
    inputs = [
        normal(batch, heads, width),
        normal(batch, heads, bins),
        normal(heads, bins).exp() * 0.2,
        normal(heads, bins),
        normal(heads, bins) * 0.3,
        normal(heads, bins, 2),
        normal(batch, bins, 2, heads, width),
    ]
    return [x.requires_grad_() for x in inputs]


def expected_mix(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    v, filter_, decay, frequency, bias, mixing, state = inputs
    gain = torch.sqrt(1 - torch.exp(-2 * decay))
    y, last = prefix.causal_mix(
        *(v[:, None], (filter_ * gain)[:, None], decay, frequency, bias, mixing, state),
        floor=1e-3,
        backend="reference",
    )
    return y[:, 0], last


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 3), heads=st.integers(1, 3), width=st.integers(1, 9), bins=st.integers(1, 4))
def test_mix_step_matches_the_general_form(batch: int, heads: int, width: int, bins: int) -> None:
    inputs = mix_inputs(batch, heads, width, bins)
    expected, actual = expected_mix(inputs), decode.mix_step(*inputs, floor=1e-3)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(decode.mix_step(*inputs, floor=1e-3), expected, rtol=1e-10, atol=1e-10)
    upstream = [torch.randn_like(y) for y in expected]
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)
    )


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 3), width=st.integers(1, 9), taps=st.integers(1, 5), read=st.integers(0, 9))
def test_gate_step_matches_the_general_form(batch: int, width: int, taps: int, read: int) -> None:
    x, projected, mean = normal(batch, width), normal(batch, 2 * width), normal(batch, width)
    weight, recent = normal(2 * width, taps), normal(batch, taps - 1, 2 * width)
    count = torch.full((batch,), read)
    convolved, kept = streaming.causal_conv(projected[:, None], weight, recent)
    means, mean_after, count_after = streaming.prefix_mean(x[:, None], mean * (read > 0), count)
    key, value = convolved[:, 0].chunk(2, dim=-1)
    expected = (torch.cat([means[:, 0], x], dim=-1), key * value, kept, mean_after, count_after)
    inputs = (x, projected, weight, recent, mean * (read > 0), count)
    torch.testing.assert_close(decode.gate_step(*inputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(decode.gate_step(*inputs), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_at_zero_is_finite_and_nan_stays_nan(fused: bool) -> None:
    inputs = mix_inputs(1, 1, 3, 2)
    with torch.no_grad():
        inputs[0].zero_()
        inputs[6].zero_()
    with torch.set_grad_enabled(not fused):
        y, _ = decode.mix_step(*inputs, floor=1e-3)
        assert (y == 0).all()
        if not fused:
            grads = torch.autograd.grad(y.sum(), inputs)
            assert all(torch.isfinite(grad).all() for grad in grads)
        inputs[0].data[0, 0, 1] = torch.nan
        y, _ = decode.mix_step(*inputs, floor=1e-3)
    assert torch.isnan(y[0, 0]).tolist() == [False, True, False]
