"""Causal mixing against direct float64 sums: values, every gradient, states, odd shapes, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import CAUSAL_MIX, causal_inputs, compare, mix, results
from torch import Tensor

from fftnet.ops.causal_mix import reference
from fftnet.ops.causal_mix.eager import prefix_transform

FAST = CAUSAL_MIX.fast()
IN_BLOCKS = [name for name in FAST if name != "export"]
"""Backends that read block after block. That of exported programs multiplies by zero what comes later."""
LENGTHS = [1, 2, 3, 17, 64, 65, 255, 256, 257, 311]


def mix_inputs(**sizes: int) -> list[Tensor]:
    return list(causal_inputs(**sizes).values())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_causal_mix_matches_the_direct_sum(backend: str, length: int) -> None:
    compare(CAUSAL_MIX, mix_inputs(length=length), backend)


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=15)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    heads=st.integers(1, 5),
    width=st.sampled_from([1, 2, 5, 8, 17, 40, 64, 65]),
    bins=st.integers(1, 6),
)
def test_causal_mix_at_any_shape(
    backend: str, batch: int, length: int, heads: int, width: int, bins: int
) -> None:
    inputs = mix_inputs(batch=batch, length=length, heads=heads, width=width, bins=bins)
    compare(CAUSAL_MIX, inputs, backend, 1e-8)


@pytest.mark.parametrize("backend", FAST)
def test_causal_mix_in_float32_and_narrower(backend: str) -> None:
    inputs = mix_inputs(length=301, heads=3, width=16)
    expected = results(CAUSAL_MIX, inputs, "reference")
    actual = results(CAUSAL_MIX, [x.float() for x in inputs], backend)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_causal_mix_in_bfloat16_is_that_in_float32(backend: str) -> None:
    narrow = [x.bfloat16() for x in mix_inputs(length=301, heads=3, width=16)]
    mixed, state = mix(*narrow, backend=backend)
    assert mixed.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    wide, _ = mix(*(x.float() for x in narrow), backend=backend)
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_causal_mix_passes_gradcheck(backend: str) -> None:
    inputs = [x.requires_grad_() for x in mix_inputs(batch=1, length=5, heads=2, width=2, bins=2)]
    assert torch.autograd.gradcheck(lambda *x: mix(*x, backend=backend), inputs)


@pytest.mark.parametrize("backend", FAST)
def test_zero_values_have_finite_gradients(backend: str) -> None:
    inputs = [torch.zeros_like(x) if x.ndim >= 4 else x for x in mix_inputs(length=9)]
    outputs, grads = results(CAUSAL_MIX, inputs, backend)
    assert all(torch.isfinite(x).all() for x in outputs + grads)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_causal_mix_continues_from_its_state(backend: str) -> None:
    v, filter_, *rest, state = mix_inputs(length=300)
    whole, last = mix(v, filter_, *rest, state, backend=backend)
    pieces = []
    for span in (slice(0, 1), slice(1, 100), slice(100, 300)):
        piece, state = mix(v[:, span], filter_[:, span], *rest, state, backend=backend)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", IN_BLOCKS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_comes_out_as_nan_and_only_later(backend: str, bad: float) -> None:
    v, *rest = mix_inputs(length=400)
    v[0, 300, 0, 0] = bad
    mixed, _ = mix(v, *rest, backend=backend)
    assert not torch.isfinite(mixed[0, 300:, 0, 0]).any()
    assert torch.isfinite(mixed[1]).all()
    assert torch.isfinite(mixed[0, :256]).all()


@pytest.mark.parametrize("length", [1, 2, 13, 300])
def test_prefix_transform_matches_the_direct_sum(length: int) -> None:
    v, _, decay, frequency, _, _, state = mix_inputs(length=length)
    actual, last = prefix_transform(v, decay, frequency, state)
    expected = reference.prefix_spectrum(v, decay, frequency, state)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.complex(last[:, :, 0], last[:, :, 1]).transpose(1, 2), expected[:, -1])
