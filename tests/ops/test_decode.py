"""One token at a time: every form of the decode step's operations against the general ones at T = 1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_inputs import address_step_inputs, context_step_inputs, gate_step_inputs, mix_step_inputs
from operators import (
    ADDRESS_STEP,
    CONTEXT_STEP,
    EPS,
    GATE_STEP,
    MIX_STEP,
    address_step,
    compare,
    mix,
    mix_step,
)
from torch import Tensor

from fftnet.ops import decode
from fftnet.ops.addresses import addresses
from fftnet.ops.gated_conv import causal_conv
from fftnet.ops.gated_norm import gated_norm
from fftnet.ops.keyed_mix import keyed_mix
from fftnet.ops.prefix_context import prefix_context, prefix_mean
from fftnet.ops.short_conv import short_conv

BACKENDS = decode.BACKENDS.available()


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


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    width=st.integers(1, 9),
    read=st.integers(0, 9),
    horizon=st.none() | st.integers(1, 12),
)
def test_context_step_matches_the_general_form(
    batch: int, width: int, read: int, horizon: int | None
) -> None:
    x, mean, count = context_step_inputs(batch=batch, width=width, read=read).values()
    mean *= read > 0
    context, mean_after, total = prefix_context(x[:, None], mean, count, horizon=horizon)
    for backend in BACKENDS:
        with torch.no_grad():
            actual = decode.context_step(x, mean, count, horizon=horizon, backend=backend)
        torch.testing.assert_close(actual, (context[:, 0], mean_after, total), rtol=1e-10, atol=1e-10)
    compare(CONTEXT_STEP, [x, mean, count], "torch")


def expected_step(inputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The four general operators, one after the other."""
    projected, raw_filter, modulation, clock, gate = (x[:, None] for x in inputs[:5])
    weight, base_key, base_filter, bias, decay, frequency, norm_weight, past, spectrum = inputs[5:]
    values, raw_key, kept = short_conv(projected, weight, past, width=norm_weight.numel())
    key, filter_ = addresses(
        raw_key.unflatten(-1, base_key.shape),
        raw_filter.unflatten(-1, base_key.shape),
        modulation,
        base_key,
        base_filter,
        bias,
        torch.sqrt(1 - torch.exp(-2 * decay)),
        eps=EPS,
    )
    split = norm_weight.shape
    keyed = (values.unflatten(-1, split), key, filter_, clock, decay, frequency, spectrum)
    mixed, after = keyed_mix(*keyed)
    normed = gated_norm(mixed, gate.unflatten(-1, split), norm_weight)
    return normed[:, 0].flatten(1), kept, after


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    width=st.integers(1, 17),
    bins=st.integers(1, 9),
    taps=st.integers(1, 5),
)
def test_address_step_matches_the_general_form(
    batch: int, heads: int, width: int, bins: int, taps: int
) -> None:
    sizes = {"batch": batch, "heads": heads, "width": width, "bins": bins, "taps": taps}
    inputs = list(address_step_inputs(**sizes).values())
    expected = expected_step(inputs)
    for backend in BACKENDS:
        with torch.no_grad():
            actual = address_step(*inputs, backend=backend)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    compare(ADDRESS_STEP, inputs, "torch")


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_both_sides_of_the_bends_of_modrelu(backend: str) -> None:
    """Filters below and above eps, with a bias that shuts most bins and one that raises all."""
    inputs = address_step_inputs(bins=8)
    for name in ("raw_filter", "modulation", "base_filter"):
        inputs[name] *= 1e-7
    inputs["base_filter"] += torch.linspace(0, 4 * EPS, 8, dtype=torch.float64)
    for bias in (-2 * EPS, 0.0, 0.5):
        inputs["bias"] = torch.full_like(inputs["bias"], bias)
        expected = expected_step(list(inputs.values()))
        actual = address_step(*inputs.values(), backend=backend)
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_float32_error_of_address_step(backend: str) -> None:
    inputs = list(address_step_inputs(heads=3, width=40, bins=16).values())
    expected = address_step(*inputs, backend="reference")
    actual = address_step(*(x.float() for x in inputs), backend=backend)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 2e-6 * other.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_address_step_at_zero(backend: str, dtype: torch.dtype) -> None:
    inputs = {name: torch.zeros_like(x, dtype=dtype) for name, x in address_step_inputs().items()}
    inputs["decay"] += 0.5  # Without any, the normalisation g has no gradient.
    with torch.no_grad():
        for result in address_step(*inputs.values(), backend=backend):
            assert (result == 0).all()
    if backend == "torch":
        leaves = [x.requires_grad_() for x in inputs.values()]
        mixed, _, spectrum = address_step(*leaves, backend=backend)
        grads = torch.autograd.grad(mixed.sum() + spectrum.sum(), leaves, materialize_grads=True)
        assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["projected", "raw_filter", "modulation", "clock", "gate", "spectrum"])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_bad_number_spoils_its_own_row(backend: str, name: str, bad: float) -> None:
    inputs = address_step_inputs()
    expected = address_step(*inputs.values(), backend=backend)
    inputs[name][1].view(-1)[0] = bad
    mixed, past, spectrum = address_step(*inputs.values(), backend=backend)
    torch.testing.assert_close([x[0] for x in (mixed, past, spectrum)], [x[0] for x in expected])
    # tanh and the gate's sigmoid bound an infinite number, and an infinite clock forgets everything.
    if bad != bad or name in ("projected", "raw_filter", "spectrum"):
        assert not torch.isfinite(mixed[1]).all()


def test_a_horizon_below_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="context_step: horizon must be at least 1, got 0"):
        decode.context_step(*context_step_inputs().values(), horizon=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("projected", "address_step: projected must have C = 32 channels, got 31"),
        ("raw_filter", "address_step: raw_filter must have A = 16 channels, got 15"),
        ("gate", "address_step: gate must have D = 16 channels, got 15"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_that_do_not_add_up_are_named(backend: str, name: str, message: str) -> None:
    inputs = address_step_inputs()
    inputs[name] = inputs[name][:, 1:]
    if name == "projected":
        inputs["conv_weight"] = inputs["conv_weight"][1:]
        inputs["conv_state"] = inputs["conv_state"][..., 1:]
    with pytest.raises(ValueError, match=message):
        address_step(*inputs.values(), backend=backend)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_narrow_model_steps_over_a_wide_state(dtype: torch.dtype) -> None:
    inputs = address_step_inputs()
    narrow = {name: x.to(dtype) for name, x in inputs.items() if name not in ("conv_state", "spectrum")}
    expected, _, _ = address_step(*(inputs | {n: x.double() for n, x in narrow.items()}).values())
    wide = {name: inputs[name].float() for name in ("conv_state", "spectrum")}
    mixed, past, spectrum = address_step(*narrow.values(), *wide.values())
    assert (mixed.dtype, past.dtype, spectrum.dtype) == (dtype, torch.float32, torch.float32)
    assert (mixed - expected).norm() < 0.01 * expected.norm()
    x, mean, count = context_step_inputs().values()
    context, mean, _ = decode.context_step(x.to(dtype), mean.float(), count, horizon=9)
    assert (context.dtype, mean.dtype) == (dtype, torch.float32)
