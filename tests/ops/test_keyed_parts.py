"""Short convolution, addresses and norms: what stands around keyed mixing, against their references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import (
    ADDRESSES,
    EPS,
    GATED_NORM,
    RMS_NORM,
    SHORT_CONV,
    Operator,
    address_inputs,
    compare,
    norm_inputs,
    results,
    rms_inputs,
    short_conv_inputs,
)
from torch import Tensor

from fftnet.ops.short_conv import short_conv

PARTS = [SHORT_CONV, ADDRESSES, GATED_NORM, RMS_NORM]
CASES = [(operator, backend) for operator in PARTS for backend in operator.fast()]
ALL = [(operator, backend) for operator in PARTS for backend in operator.backends.available()]
LONG = {
    "short_conv": lambda: short_conv_inputs(length=1100, width=32),
    "addresses": lambda: address_inputs(length=1100, heads=3, bins=16),
    "gated_norm": lambda: norm_inputs(length=1100, heads=3, width=64),
    "rms_norm": lambda: rms_inputs(length=1100, width=264),
}
"""Inputs large enough for several threads."""


def label(value: object) -> str | None:
    return value.name if isinstance(value, Operator) else None


def each(cases: list[tuple[Operator, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("operator", "backend"), cases, ids=label)


@each(CASES)
def test_float32_error(operator: Operator, backend: str) -> None:
    inputs = list(LONG[operator.name]().values())
    expected = results(operator, inputs, "reference")
    actual = results(operator, [x.float() for x in inputs], backend)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 2e-6 * other.norm()


@pytest.mark.parametrize("backend", SHORT_CONV.fast())
@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 3, 5, 64, 65, 131]),
    width=st.sampled_from([8, 16, 24, 3]),
    keys=st.sampled_from([8, 32, 5]),
    taps=st.integers(1, 5),
)
def test_short_conv_at_any_shape(
    backend: str, batch: int, length: int, width: int, keys: int, taps: int
) -> None:
    def call(*tensors: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        return short_conv(*tensors, width=width, backend=backend)

    generator = torch.Generator().manual_seed(length)
    shapes = [(batch, length, width + keys), (width + keys, taps), (batch, taps - 1, width + keys)]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    split = Operator("short_conv", short_conv_inputs, call, SHORT_CONV.backends)
    compare(split, inputs, backend)


@pytest.mark.parametrize("backend", ADDRESSES.fast())
@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 43, 64, 65, 131]),
    heads=st.integers(1, 3),
    bins=st.sampled_from([1, 3, 8, 16, 24, 64]),
)
def test_addresses_at_any_shape(backend: str, batch: int, length: int, heads: int, bins: int) -> None:
    inputs = address_inputs(batch=batch, length=length, heads=heads, bins=bins)
    compare(ADDRESSES, list(inputs.values()), backend)


@pytest.mark.parametrize("backend", GATED_NORM.fast())
@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 43, 64, 65, 131]),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 3, 8, 16, 24, 64]),
)
def test_gated_norm_at_any_shape(backend: str, batch: int, length: int, heads: int, width: int) -> None:
    inputs = norm_inputs(batch=batch, length=length, heads=heads, width=width)
    compare(GATED_NORM, list(inputs.values()), backend)


@pytest.mark.parametrize("backend", RMS_NORM.fast())
@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 43, 64, 65, 131]),
    width=st.sampled_from([1, 3, 8, 24, 64, 72]),
)
def test_rms_norm_at_any_shape(backend: str, batch: int, length: int, width: int) -> None:
    compare(RMS_NORM, list(rms_inputs(batch=batch, length=length, width=width).values()), backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each(ALL)
def test_narrow_inputs_come_back_narrow(operator: Operator, backend: str, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in operator.make().values()]
    expected = results(operator, [x.double() for x in inputs], "reference")
    actual = results(operator, inputs, backend)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operator", PARTS, ids=label)
def test_kernels_compute_narrow_inputs_in_float32(operator: Operator, dtype: torch.dtype) -> None:
    pytest.importorskip("numba")
    narrow = [x.to(dtype) for x in operator.make().values()]
    outputs = operator.call(*narrow, backend="numba")
    wide = operator.call(*(x.float() for x in narrow), backend="numba")
    for one, other in zip(outputs, wide, strict=True):
        torch.testing.assert_close(one, other.to(dtype), rtol=0, atol=0)


@each(CASES)
def test_narrow_tokens_with_wide_parameters(operator: Operator, backend: str) -> None:
    """What a model under autocast hands over: all backends then agree about the dtypes, too."""
    inputs = operator.make()
    streams = ("x", "raw_key", "raw_filter", "modulation", "gate")
    mixed = [x.bfloat16() if name in streams else x.float() for name, x in inputs.items()]
    portable = operator.call(*mixed, backend="torch")
    for one, other in zip(operator.call(*mixed, backend=backend), portable, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@each(ALL)
def test_gradcheck(operator: Operator, backend: str) -> None:
    lengths = {"short_conv": 5, "addresses": 2, "gated_norm": 3, "rms_norm": 3}
    made = operator.make(batch=1, length=lengths[operator.name])
    inputs = [x.requires_grad_() for x in made.values()]
    assert torch.autograd.gradcheck(lambda *x: tuple(operator.call(*x, backend=backend)), inputs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@each(CASES)
def test_a_bad_number_is_not_hidden_and_spoils_its_own_token(
    operator: Operator, backend: str, bad: float
) -> None:
    inputs = {name: x.clone() for name, x in operator.make(length=70).items()}
    sound = operator.call(*inputs.values(), backend=backend)
    first = next(iter(inputs))
    inputs[first][(1, 66) + (0,) * (inputs[first].dim() - 2)] = bad
    output, *others = operator.call(*inputs.values(), backend=backend)
    assert not torch.isfinite(output[(1, 66) + (0,) * (output.dim() - 2)])
    torch.testing.assert_close(output[0], sound[0][0], rtol=0, atol=0)
    torch.testing.assert_close(output[1, :66], sound[0][1, :66], rtol=0, atol=0)
    if operator is ADDRESSES:
        torch.testing.assert_close(others[0], sound[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["raw_filter", "modulation"])
@pytest.mark.parametrize("backend", ADDRESSES.fast())
def test_nan_in_a_filter_comes_out_as_nan(backend: str, name: str) -> None:
    inputs = address_inputs()
    inputs[name][1, 3, 1, 0, 5] = float("nan")
    _, filter_ = ADDRESSES.call(*inputs.values(), backend=backend)
    assert filter_[1, 3, 1, :, 5].isnan().all()
    assert filter_[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each(CASES)
def test_zeros_have_finite_gradients(operator: Operator, backend: str, dtype: torch.dtype) -> None:
    inputs = [torch.zeros_like(x, dtype=dtype) for x in operator.make().values()]
    expected = results(operator, inputs, "torch")
    actual = results(operator, inputs, backend)
    assert all(x.isfinite().all() for x in actual[1])
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", ADDRESSES.fast())
def test_both_sides_of_the_bends_of_modrelu(backend: str) -> None:
    """Filters below and above eps, with a bias that shuts most bins and one that raises all."""
    inputs = address_inputs()
    for name in ("raw_filter", "modulation", "base_filter"):
        inputs[name] *= 1e-7
    inputs["base_filter"] += torch.linspace(0, 4 * EPS, 8, dtype=torch.float64)
    for bias in (-2 * EPS, 0.0, 0.5):
        inputs["bias"] = torch.full_like(inputs["bias"], bias)
        compare(ADDRESSES, list(inputs.values()), backend, 1e-8)


@pytest.mark.parametrize("backend", SHORT_CONV.backends.available())
def test_the_convolution_continues_in_pieces(backend: str) -> None:
    x, weight, state = short_conv_inputs(length=200).values()
    *whole, last = short_conv(x, weight, state, width=8, backend=backend)
    pieces = []
    for span in (slice(0, 1), slice(1, 3), slice(3, 100), slice(100, 200)):
        *piece, state = short_conv(x[:, span], weight, state, width=8, backend=backend)
        pieces.append(piece)
    joined = [torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)]
    torch.testing.assert_close(joined, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=0)


@pytest.mark.parametrize("operator", PARTS, ids=label)
def test_any_number_of_threads_gives_the_same_numbers(operator: Operator) -> None:
    pytest.importorskip("numba")
    inputs = [x.float() for x in LONG[operator.name]().values()]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(operator, inputs, "numba"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_the_registered_convolution_refuses_a_width_that_is_no_whole_vector() -> None:
    pytest.importorskip("numba")
    inputs = short_conv_inputs().values()
    for width in (0, 4, 16, 24):
        with pytest.raises(ValueError, match="width must be a multiple of 8 between 0 and C = 16"):
            torch.ops.fftnet.short_conv(*inputs, width, "numba")
    grads = [
        x.clone() for x in torch.ops.fftnet.short_conv(*short_conv_inputs(width=16).values(), 8, "numba")
    ]
    with pytest.raises(ValueError, match="grad_values must have 16 channels, got 8"):
        torch.ops.fftnet.short_conv_backward(*short_conv_inputs(width=16).values(), *grads, 16, "numba")


@pytest.mark.parametrize("operator", PARTS, ids=label)
def test_compiled_they_give_the_same(operator: Operator) -> None:
    pytest.importorskip("numba")
    torch.compiler.reset()
    inputs = list(operator.make().values())
    compiled = torch.compile(
        lambda *x: operator.call(*x, backend="numba"), backend="aot_eager", fullgraph=True
    )
    found = []
    for function in (compiled, lambda *x: operator.call(*x, backend="numba")):
        leaves = [x.clone().requires_grad_() for x in inputs]
        outputs = list(function(*leaves))
        grads = torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs])
        found.append([*(y.detach() for y in outputs), *grads])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
