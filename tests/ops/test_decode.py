"""One token at a time: every form of the decode step's operations against the general ones at T = 1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import GATE_STEP, MIX_STEP, compare, gate_step_inputs, mix, mix_step, mix_step_inputs
from torch import Tensor

from fftnet.ops import decode
from fftnet.ops.gated_conv import causal_conv
from fftnet.ops.prefix_context import prefix_mean


def expected_mix(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    v, filter_, decay, *rest = inputs
    gain = torch.sqrt(1 - torch.exp(-2 * decay))
    mixed, last = mix(v[:, None], (filter_ * gain)[:, None], decay, *rest, backend="torch")
    return mixed[:, 0], last


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 3), heads=st.integers(1, 3), width=st.integers(1, 9), bins=st.integers(1, 4))
def test_mix_step_matches_the_general_form(batch: int, heads: int, width: int, bins: int) -> None:
    inputs = list(mix_step_inputs(batch=batch, heads=heads, width=width, bins=bins).values())
    expected = expected_mix(inputs)
    for backend in MIX_STEP.backends.available():
        with torch.no_grad():
            actual = mix_step(*inputs, backend=backend)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    compare(MIX_STEP, inputs, "torch")


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 3), width=st.integers(1, 9), taps=st.integers(1, 5), read=st.integers(0, 9))
def test_gate_step_matches_the_general_form(batch: int, width: int, taps: int, read: int) -> None:
    inputs = list(gate_step_inputs(batch=batch, width=width, taps=taps, read=read).values())
    x, projected, weight, past, mean, count = inputs
    mean *= read > 0
    convolved, kept = causal_conv(projected[:, None], weight, past)
    means, mean_after, count_after = prefix_mean(x[:, None], mean, count)
    key, value = convolved[:, 0].chunk(2, dim=-1)
    expected = (torch.cat([means[:, 0], x], dim=-1), key * value, kept, mean_after, count_after)
    for backend in GATE_STEP.backends.available():
        with torch.no_grad():
            torch.testing.assert_close(decode.gate_step(*inputs, backend=backend), expected)
    compare(GATE_STEP, inputs, "torch")


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_at_zero_is_finite_and_nan_stays_nan(fused: bool) -> None:
    inputs = [x.requires_grad_() for x in mix_step_inputs(batch=1, heads=1, width=3, bins=2).values()]
    with torch.no_grad():
        inputs[0].zero_()
        inputs[6].zero_()
    with torch.set_grad_enabled(not fused):
        y, _ = mix_step(*inputs)
        assert (y == 0).all()
        if not fused:
            grads = torch.autograd.grad(y.sum(), inputs)
            assert all(torch.isfinite(grad).all() for grad in grads)
        inputs[0].data[0, 0, 1] = torch.nan
        y, _ = mix_step(*inputs)
    assert torch.isnan(y[0, 0]).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_token_over_a_wide_state(dtype: torch.dtype) -> None:
    values, filter_, *parameters, state = mix_step_inputs().values()
    narrow = [x.to(dtype) for x in (values, filter_)]
    expected, _ = mix_step(*(x.double() for x in narrow), *parameters, state, backend="reference")
    with torch.no_grad():
        mixed, moved = mix_step(*narrow, *(x.float() for x in (*parameters, state)))
    assert (mixed.dtype, moved.dtype) == (dtype, torch.float32)
    assert (mixed - expected).norm() < 0.01 * expected.norm()
