"""Convolutions, addresses, norms and decode steps beyond test_backends.py: dtypes, bad numbers, zeros."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import (
    ADDRESS_STEP,
    ADDRESSES,
    CONTEXT_STEP,
    DELTA_MIX,
    DELTA_STEP,
    EPS,
    GATED_NORM,
    KEYED_MIX,
    RMS_NORM,
    SHORT_CONV,
    SPECTRAL_MIX,
    Operator,
    compare,
    results,
)
from torch import Tensor

from fftnet.ops import decode
from fftnet.ops.short_conv import short_conv

PARTS = [SHORT_CONV, ADDRESSES, GATED_NORM, RMS_NORM]
CASES = [(operator, backend) for operator in PARTS for backend in operator.fast()]
each = pytest.mark.parametrize(("operator", "backend"), CASES, ids=str)


@pytest.mark.parametrize("backend", SHORT_CONV.fast())
@settings(deadline=None, max_examples=15)
@given(
    length=st.sampled_from([1, 2, 3, 5, 64, 65, 131]),
    width=st.sampled_from([8, 16, 24, 3]),
    keys=st.sampled_from([8, 32, 5]),
)
def test_more_or_fewer_keys_than_values(backend: str, length: int, width: int, keys: int) -> None:
    def call(*tensors: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        return short_conv(*tensors, width=width, backend=backend)

    generator = torch.Generator().manual_seed(length)
    shapes = [(2, length, width + keys), (width + keys, 4), (2, 3, width + keys)]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    compare(replace(SHORT_CONV, call=call, constants=None), inputs, backend)


@each
def test_narrow_tokens_with_wide_parameters(operator: Operator, backend: str) -> None:
    """All backends return the same dtypes for the tensors of a model under autocast."""
    inputs = operator.make()
    streams = ("x", "raw_key", "raw_filter", "modulation", "gate")
    mixed = [x.bfloat16() if name in streams else x.float() for name, x in inputs.items()]
    portable = operator.outputs(*mixed, backend="torch")
    for one, other in zip(operator.outputs(*mixed, backend=backend), portable, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@each
def test_a_bad_number_is_not_hidden_and_spoils_its_own_token(
    operator: Operator, backend: str, bad: float
) -> None:
    inputs = {name: x.clone() for name, x in operator.make(length=70).items()}
    sound = operator.outputs(*inputs.values(), backend=backend)
    first = next(iter(inputs))
    inputs[first][(1, 66) + (0,) * (inputs[first].dim() - 2)] = bad
    output, *others = operator.outputs(*inputs.values(), backend=backend)
    assert not torch.isfinite(output[(1, 66) + (0,) * (output.dim() - 2)])
    torch.testing.assert_close(output[0], sound[0][0], rtol=0, atol=0)
    torch.testing.assert_close(output[1, :66], sound[0][1, :66], rtol=0, atol=0)
    if operator is ADDRESSES:
        torch.testing.assert_close(others[0], sound[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["raw_filter", "modulation"])
@pytest.mark.parametrize("backend", ADDRESSES.fast())
def test_nan_in_a_filter_comes_out_as_nan(backend: str, name: str) -> None:
    inputs = ADDRESSES.make()
    inputs[name][1, 3, 1, 0, 5] = float("nan")
    _, filter_ = ADDRESSES.outputs(*inputs.values(), backend=backend)
    assert filter_[1, 3, 1, :, 5].isnan().all()
    assert filter_[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "operator", [*PARTS, KEYED_MIX, DELTA_MIX, SPECTRAL_MIX, ADDRESS_STEP, DELTA_STEP], ids=str
)
def test_zeros_give_zero_with_finite_gradients(operator: Operator, dtype: torch.dtype) -> None:
    inputs = {name: torch.zeros_like(x, dtype=dtype) for name, x in operator.make().items()}
    if "decay" in inputs:
        inputs["decay"] += 0.5  # Without any, the normalisation g has no gradient.
    for backend in operator.fast():
        with torch.no_grad():
            assert not any(x.any() for x in operator.outputs(*inputs.values(), backend=backend))
        _, grads = results(operator, list(inputs.values()), backend)
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(
    ("operator", "backend"),
    [(operator, backend) for operator in (ADDRESSES, ADDRESS_STEP) for backend in operator.fast()],
    ids=str,
)
def test_filters_on_both_sides_of_the_thresholds_of_modrelu(operator: Operator, backend: str) -> None:
    """Filters below and above eps, with a bias that shuts most bins and one that raises all."""
    inputs = operator.make(bins=8)
    for name in ("raw_filter", "modulation", "base_filter"):
        inputs[name] *= 1e-7
    inputs["base_filter"] += torch.linspace(0, 4 * EPS, 8, dtype=torch.float64)
    for bias in (-2 * EPS, 0.0, 0.5):
        inputs["bias"] = torch.full_like(inputs["bias"], bias)
        compare(operator, list(inputs.values()), backend, 1e-8)


@pytest.mark.parametrize("width", [0, 16, 24])
def test_a_width_out_of_range_is_refused(width: int) -> None:
    message = f"short_conv: width must lie between 0 and C = 16, got {width}"
    with pytest.raises(ValueError, match=message):
        short_conv(*SHORT_CONV.make().values(), width=width)
    if "numba" in SHORT_CONV.fast():
        with pytest.raises(ValueError, match=message):
            torch.ops.fftnet.short_conv(*SHORT_CONV.make().values(), width, "numba")


def test_the_registered_convolution_refuses_a_width_that_is_no_whole_vector() -> None:
    pytest.importorskip("numba")
    with pytest.raises(ValueError, match="the registered short_conv can't run on the backend 'numba'"):
        torch.ops.fftnet.short_conv(*SHORT_CONV.make().values(), 4, "numba")
    inputs = list(SHORT_CONV.make(width=16).values())
    grads = [x.clone() for x in torch.ops.fftnet.short_conv(*inputs, 8, "numba")]
    message = r"grad_values must have shape \(2, 17, 16\) \(B, T, D\), got \(2, 17, 8\)"
    with pytest.raises(ValueError, match=message):
        torch.ops.fftnet.short_conv_backward(*inputs, *grads, 16, "numba")


@pytest.mark.parametrize("operator", [ADDRESS_STEP, DELTA_STEP], ids=str)
@pytest.mark.parametrize("backend", decode.BACKENDS.available())
@torch.no_grad()
def test_a_bad_value_in_a_step_spoils_its_own_channel_of_the_spectrum(
    operator: Operator, backend: str
) -> None:
    inputs = operator.make(batch=1, heads=1, width=3)
    inputs["projected"][0, 1] = torch.nan
    _, _, spectrum, *_ = operator.outputs(*inputs.values(), backend=backend)
    is_bad = torch.isnan(spectrum[0, 0]).flatten(0, 1)
    assert torch.equal(is_bad, torch.tensor([False, True, False]).expand_as(is_bad))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["projected", "raw_filter", "modulation", "clock", "gate", "spectrum"])
@pytest.mark.parametrize("backend", decode.BACKENDS.available())
@torch.no_grad()
def test_a_bad_number_in_a_step_spoils_its_own_row(backend: str, name: str, bad: float) -> None:
    inputs = ADDRESS_STEP.make()
    expected = ADDRESS_STEP.outputs(*inputs.values(), backend=backend)
    inputs[name][1].view(-1)[0] = bad
    outputs = ADDRESS_STEP.outputs(*inputs.values(), backend=backend)
    torch.testing.assert_close([x[0] for x in outputs], [x[0] for x in expected])
    # tanh and the gate's sigmoid bound an infinite number, and an infinite clock forgets everything.
    if bad != bad or name in ("projected", "raw_filter", "spectrum"):
        assert not torch.isfinite(outputs[0][1]).all()


def test_a_horizon_below_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="context_step: horizon must be at least 1, got 0"):
        decode.context_step(*CONTEXT_STEP.make().values(), horizon=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("projected", "address_step: projected must have C = 32, got 31"),
        ("raw_filter", "address_step: raw_filter must have A = 16, got 15"),
        ("gate", "address_step: gate must have D = 16, got 15"),
    ],
)
@pytest.mark.parametrize("backend", decode.BACKENDS.available())
def test_channels_that_do_not_add_up_are_named(backend: str, name: str, message: str) -> None:
    inputs = ADDRESS_STEP.make()
    inputs[name] = inputs[name][:, 1:]
    if name == "projected":
        inputs["conv_weight"] = inputs["conv_weight"][1:]
        inputs["conv_state"] = inputs["conv_state"][..., 1:]
    with pytest.raises(ValueError, match=message):
        ADDRESS_STEP.outputs(*inputs.values(), backend=backend)
