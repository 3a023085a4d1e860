"""Prefix context and short convolution against plain loops, PyTorch's convolution and the references."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import PREFIX_CONTEXT, SHORT_CONV, defined_context_step, normal_numbers
from torch import Tensor

from fftnet.ops.decode import BACKENDS as decode_backends
from fftnet.ops.decode import context_step
from fftnet.ops.prefix_context import prefix_context
from fftnet.ops.short_conv import short_conv


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 70), split=st.integers(0, 69), masked=st.booleans())
def test_the_context_matches_a_plain_loop(length: int, split: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 3, generator=generator, dtype=torch.float64)
    counted = torch.rand(2, length, generator=generator) < 0.6 if masked else None
    mean = torch.zeros(2, 3, dtype=torch.float64)
    count = torch.zeros(2, dtype=torch.int64)
    pieces = []
    for span in (slice(0, split), slice(split, length)):
        if x[:, span].shape[1]:
            part = None if counted is None else counted[:, span]
            context, mean, count = prefix_context(x[:, span], mean, count, part, backend="torch")
            assert torch.equal(context[..., 3:], x[:, span])
            pieces.append(context[..., :3])
    actual = torch.cat(pieces, dim=1)
    for row in range(2):
        for t in range(length):
            prefix_rows = x[row, : t + 1] if counted is None else x[row, : t + 1][counted[row, : t + 1]]
            expected = prefix_rows.mean(dim=0) if len(prefix_rows) else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(actual[row, t], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(count, torch.tensor([length] * 2) if counted is None else counted.sum(dim=1))


@pytest.mark.parametrize("horizon", [1, 2, 3, 9])
@pytest.mark.parametrize("backend", PREFIX_CONTEXT.fast())
def test_a_mean_that_forgets_within_a_few_tokens(backend: str, horizon: int) -> None:
    """The weights of such a mean grow by more than float32 holds within a text."""
    x, mean, count = (
        x.float() if x.is_floating_point() else x for x in PREFIX_CONTEXT.make(length=700).values()
    )
    some = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.7
    for counted in (None, some):
        inputs = (x, mean, count, counted)
        expected = prefix_context(*inputs, horizon=horizon, backend="reference")
        actual = prefix_context(*inputs, horizon=horizon, backend=backend)
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


COUNTS = torch.tensor([0, 1, 255, 256, 257, 21_000, 2**24 - 1, 2**24 + 1, 10**9])
"""Tokens read before, one count a row: around the horizon, and more than float32 counts one by one."""


def context_and_gradients(
    backend: str, dtype: torch.dtype, length: int, horizon: int | None, scale: float = 1.0
) -> list[Tensor]:
    normal = normal_numbers(length)
    rows = len(COUNTS)
    x = normal(rows, length, 8).to(dtype).requires_grad_()
    mean = (normal(rows, 8) * (COUNTS > 0)[:, None]).to(dtype).requires_grad_()
    upstream = [normal(rows, length, 16) * scale, normal(rows, 8) * scale]
    context, last, count = prefix_context(x, mean, COUNTS, horizon=horizon, backend=backend)
    assert torch.equal(count, COUNTS + length)
    grads = torch.autograd.grad([context, last], [x, mean], [y.to(dtype) for y in upstream])
    return [tensor.detach().double() for tensor in (context, last, *grads)]


@pytest.mark.parametrize(
    ("horizon", "length"),
    [*product((None, 256), (1, 2, 255, 256, 257, 300, 521)), *product((1, 2), (1, 2, 115))],
)
def test_the_context_is_right_after_any_number_of_tokens(horizon: int | None, length: int) -> None:
    expected = context_and_gradients("reference", torch.float64, length, horizon)
    for backend in PREFIX_CONTEXT.fast():
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 5e-5)):
            actual = context_and_gradients(backend, dtype, length, horizon)
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("horizon", [None, 1, 2, 256])
def test_a_step_of_the_context_is_right_after_any_number_of_tokens(horizon: int | None) -> None:
    normal = normal_numbers(0)
    inputs = (normal(len(COUNTS), 8), normal(len(COUNTS), 8), COUNTS)
    narrow = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    expected = defined_context_step(*inputs, horizon=horizon)
    with torch.no_grad():
        for backend in decode_backends.available():
            actual = context_step(*narrow, horizon=horizon, backend=backend)
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("horizon", [1, 2, 9])
def test_a_small_gradient_of_the_context_keeps_its_digits(horizon: int) -> None:
    """Gradients are divided by weights that grow: their quotient has to stay within float32."""
    expected = context_and_gradients("reference", torch.float64, 80, horizon, scale=1e-12)
    for backend in PREFIX_CONTEXT.fast():
        actual = context_and_gradients(backend, torch.float32, 80, horizon, scale=1e-12)
        torch.testing.assert_close(actual[2:], expected[2:], rtol=1e-5, atol=1e-17)


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_the_convolution_matches_conv1d(taps: int, length: int) -> None:
    x, weight, past = SHORT_CONV.make(length=length, taps=taps).values()
    padded = torch.cat([past, x], dim=1)
    convolved = torch.nn.functional.conv1d(padded.transpose(1, 2), weight[:, None], groups=16).transpose(1, 2)
    for backend in [*SHORT_CONV.fast(), "reference"]:
        values, keys, kept = short_conv(x, weight, past, width=8, backend=backend)
        torch.testing.assert_close(values, torch.nn.functional.silu(convolved[..., :8]))
        torch.testing.assert_close(keys, convolved[..., 8:])
        torch.testing.assert_close(kept, padded[:, length:], rtol=0, atol=0)
