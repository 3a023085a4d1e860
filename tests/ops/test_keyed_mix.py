"""Causal and keyed mixing beyond test_backends.py: bad numbers, the special case, capacity."""

import pytest
import torch
from operators import CAUSAL_MIX, KEYED_MIX, Operator, causal_inputs, keyed_inputs, results

from fftnet.ops.causal_mix import HeadParameters, causal_mix, reference
from fftnet.ops.causal_mix.eager import prefix_transform
from fftnet.ops.keyed_mix import keyed_mix

FAST = KEYED_MIX.fast()


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_a_key_of_one_and_a_real_filter_give_the_causal_layer(backend: str) -> None:
    """The layer of section 2 of docs/maths.md, with a bias of 0 for modReLU and a clock of one token."""
    values, key, filter_, clock, decay, frequency, state = keyed_inputs(length=70).values()
    key = torch.stack([torch.ones_like(key[..., 0, :]), torch.zeros_like(key[..., 0, :])], dim=-2)
    gain = filter_[..., 0, :]
    readout = torch.randn(*decay.shape, 2, dtype=torch.float64)
    parameters = HeadParameters(decay, frequency, torch.zeros_like(decay), readout)
    causal_state = state.permute(0, 3, 2, 1, 4).contiguous()
    expected, expected_state = causal_mix(
        values, gain, parameters, causal_state, eps=1e-12, backend="reference"
    )
    read = gain[..., None, :] * readout.movedim(-1, -2)
    mixed, last = keyed_mix(
        values, key, read, torch.ones_like(clock), decay, frequency, state, backend=backend
    )
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(last.permute(0, 3, 2, 1, 4), expected_state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("operator", [CAUSAL_MIX, KEYED_MIX], ids=str)
def test_a_bad_value_comes_out_as_nan_and_only_later(operator: Operator, bad: float) -> None:
    values, *rest = operator.make(length=400).values()
    values[0, 300, 0, 0] = bad
    # The backend of exported programs multiplies later tokens by zero, so it is not among these.
    for backend in set(operator.fast()) - {"export"}:
        mixed, _ = operator.outputs(values, *rest, backend=backend)
        assert not torch.isfinite(mixed[0, 300:, 0, 0]).any()
        assert torch.isfinite(mixed[1]).all()
        assert torch.isfinite(mixed[0, :256]).all()


@pytest.mark.parametrize("backend", CAUSAL_MIX.fast())
def test_zero_values_have_finite_gradients(backend: str) -> None:
    inputs = [torch.zeros_like(x) if x.ndim >= 4 else x for x in causal_inputs(length=9).values()]
    outputs, grads = results(CAUSAL_MIX, inputs, backend)
    assert all(torch.isfinite(x).all() for x in outputs + grads)


@pytest.mark.parametrize("length", [1, 2, 13, 300])
def test_prefix_transform_matches_the_direct_sum(length: int) -> None:
    v, _, decay, frequency, _, _, state = causal_inputs(length=length).values()
    actual, last = prefix_transform(v, decay, frequency, state)
    expected = reference.prefix_spectrum(v, decay, frequency, state)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.complex(last[:, :, 0], last[:, :, 1]).transpose(1, 2), expected[:, -1])


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
