"""Keyed mixing against direct float64 sums: values, every gradient, states, clocks, its special case."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import KEYED_MIX, compare, keyed_inputs, results
from torch import Tensor

from fftnet.ops.causal_mix import HeadParameters
from fftnet.ops.causal_mix import reference as causal_reference
from fftnet.ops.keyed_mix import keyed_mix

FAST = KEYED_MIX.fast()
IN_BLOCKS = [name for name in FAST if name != "export"]
"""Backends that read block after block. That of exported programs multiplies by zero what comes later."""
LENGTHS = [1, 2, 3, 17, 63, 64, 65, 129, 256, 311]


def mix_inputs(*, speed: float = 1.0, **sizes: int) -> list[Tensor]:
    """Inputs whose clock runs so many times faster."""
    inputs = keyed_inputs(**sizes)
    return list((inputs | {"clock": inputs["clock"] * speed}).values())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_keyed_mix_matches_the_direct_sum(backend: str, length: int) -> None:
    compare(KEYED_MIX, mix_inputs(length=length), backend)


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=15)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 150),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 2, 5, 8, 17, 40, 64, 65]),
    bins=st.sampled_from([1, 2, 3, 8, 16, 17, 32]),
    speed=st.sampled_from([0.0, 0.1, 1.0, 20.0, 300.0]),
)
def test_keyed_mix_at_any_shape_and_speed(
    backend: str, batch: int, length: int, heads: int, width: int, bins: int, speed: float
) -> None:
    inputs = mix_inputs(batch=batch, length=length, heads=heads, width=width, bins=bins, speed=speed)
    compare(KEYED_MIX, inputs, backend, 1e-8)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("speed", "tolerance"), [(1.0, 2e-5), (20.0, 5e-4)])
def test_keyed_mix_in_float32(backend: str, speed: float, tolerance: float) -> None:
    inputs = mix_inputs(length=301, heads=3, width=16, speed=speed)
    expected = results(KEYED_MIX, inputs, "reference")
    actual = results(KEYED_MIX, [x.float() for x in inputs], backend)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_keyed_mix_in_bfloat16_is_that_in_float32(backend: str) -> None:
    narrow = [x.bfloat16() for x in mix_inputs(length=101, heads=3, width=16)]
    mixed, state = keyed_mix(*narrow, backend=backend)
    assert mixed.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    wide, _ = keyed_mix(*(x.float() for x in narrow), backend=backend)
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_keyed_mix_passes_gradcheck(backend: str) -> None:
    inputs = [x.requires_grad_() for x in mix_inputs(batch=1, length=5, heads=2, width=2, bins=2)]
    assert torch.autograd.gradcheck(lambda *x: keyed_mix(*x, backend=backend), inputs)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_keyed_mix_continues_from_its_state(backend: str) -> None:
    *streams, decay, frequency, state = mix_inputs(length=300)
    whole, last = keyed_mix(*[*streams, decay, frequency, state], backend=backend)
    pieces = []
    for span in (slice(0, 1), slice(1, 100), slice(100, 300)):
        inputs = [*(x[:, span] for x in streams), decay, frequency, state]
        piece, state = keyed_mix(*inputs, backend=backend)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_a_key_of_one_and_a_real_filter_give_the_causal_layer(backend: str) -> None:
    """The layer of section 2 of docs/maths.md where its modReLU has a bias of 0 and a clock of one token."""
    values, key, filter_, clock, decay, frequency, state = mix_inputs(length=70)
    key = torch.stack([torch.ones_like(key[..., 0, :]), torch.zeros_like(key[..., 0, :])], dim=-2)
    gain = filter_[..., 0, :]
    readout = torch.randn(*decay.shape, 2, dtype=torch.float64)
    parameters = HeadParameters(decay, frequency, torch.zeros_like(decay), readout)
    causal_state = state.permute(0, 3, 2, 1, 4).contiguous()
    expected, expected_state = causal_reference.causal_mix(values, gain, parameters, causal_state, 1e-12)
    read = gain[..., None, :] * readout.movedim(-1, -2)
    mixed, last = keyed_mix(
        values, key, read, torch.ones_like(clock), decay, frequency, state, backend=backend
    )
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(last.permute(0, 3, 2, 1, 4), expected_state)


@pytest.mark.parametrize("backend", IN_BLOCKS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_comes_out_as_nan_and_only_later(backend: str, bad: float) -> None:
    values, *rest = mix_inputs(length=400)
    values[0, 300, 0, 0] = bad
    mixed, _ = keyed_mix(values, *rest, backend=backend)
    assert not torch.isfinite(mixed[0, 300:, 0, 0]).any()
    assert torch.isfinite(mixed[1]).all()
    assert torch.isfinite(mixed[0, :256]).all()


@pytest.mark.parametrize("backend", FAST)
def test_capacity_grows_with_the_bins(backend: str) -> None:
    """Random keys, read by their conjugates: F bins of one head tell about F d / (2 ln V) pairs apart.

    docs/maths.md, section 3: the read-out is the value sought plus crosstalk of the other pairs, whose
    variance is (pairs - 1) / (2 F) of the value's.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = 33
    for bins in (4, 16, 64):
        key = torch.randn(1, pairs, 1, 2, bins, generator=generator)
        values = torch.randn(1, pairs, 1, 64, generator=generator)
        zeros = torch.zeros(1, bins)
        state = torch.zeros(1, 1, 2, bins, 64)
        still = torch.zeros(1, pairs, 1)
        _, state = keyed_mix(values, key, key, still, zeros, zeros, state, backend=backend)
        address = key * torch.tensor([1.0, -1.0])[:, None] / (2 * bins)
        nothing = torch.zeros_like(values)
        found, _ = keyed_mix(nothing, key, address, still, zeros, zeros, state, backend=backend)
        error = (found - values).square().mean()
        assert error == pytest.approx((pairs - 1) / (2 * bins) + 1 / bins, rel=0.35)
