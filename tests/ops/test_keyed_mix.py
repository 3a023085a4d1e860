"""Causal, keyed and bidirectional mixing beyond test_backends.py: bad numbers, zeros, capacity."""

import shutil

import pytest
import torch
from conftest import assert_same, randomise
from operators import CAUSAL_MIX, DELTA_MIX, KEYED_MIX, SPECTRAL_MIX, Operator, compare, results

from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops.causal_mix import HeadParameters, causal_mix
from fftnet.ops.delta_mix import delta_mix
from fftnet.ops.keyed_mix import keyed_mix
from fftnet.ops.spectral_mix import spectral_mix

FAST = KEYED_MIX.fast()


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_a_key_of_one_and_a_real_filter_give_the_causal_layer(backend: str) -> None:
    """The layer of section 2 of docs/maths.md, with a bias of 0 for modReLU and a clock of one token."""
    values, key, filter_, clock, decay, frequency, state = KEYED_MIX.make(length=70).values()
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


@pytest.mark.parametrize("backend", [*DELTA_MIX.fast(), "reference"])
def test_without_erasing_the_delta_rule_is_keyed_mixing(backend: str) -> None:
    values, key, filter_, erase, *rest = DELTA_MIX.make(length=70).values()
    expected = keyed_mix(values, key, filter_, *rest, backend="reference")
    found = delta_mix(values, key, filter_, torch.zeros_like(erase), *rest, backend=backend)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", [*DELTA_MIX.fast(), "reference"])
def test_a_rewritten_key_keeps_its_last_value(backend: str) -> None:
    """Orthogonal keys of unit length, erased in full, without decay: each reads what was written last."""
    generator = torch.Generator().manual_seed(0)
    unit, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    which = torch.randint(0, 16, (90,), generator=generator)
    key = unit[which].view(1, 90, 1, 2, 8)
    values = torch.randn(1, 90, 1, 5, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(1, 8, dtype=torch.float64)
    state = torch.zeros(1, 1, 2, 8, 5, dtype=torch.float64)
    erase = torch.ones(1, 90, 1, dtype=torch.float64)
    _, last = delta_mix(values, key, key, erase, erase, zeros, zeros, state, backend=backend)
    found = unit @ last.view(16, 5)
    for n in which.unique().tolist():
        newest = int((which == n).nonzero().max())
        torch.testing.assert_close(found[n], values[0, newest, 0])


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


@pytest.mark.parametrize("backend", SPECTRAL_MIX.fast())
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_comes_out_of_a_bidirectional_mixer_as_nan(backend: str, which: int, bad: float) -> None:
    inputs = list(SPECTRAL_MIX.make(length=65).values())
    inputs[which].select(-1, 0).view(-1)[0] = bad
    mixed = spectral_mix(*inputs, backend=backend)
    assert not torch.isfinite(mixed[0, :, 0]).any()
    if which < 2:
        assert torch.isfinite(mixed[1]).all()
    _, grads = results(SPECTRAL_MIX, inputs, backend)
    assert not all(torch.isfinite(x).all() for x in grads)


@pytest.mark.parametrize("backend", SPECTRAL_MIX.fast())
def test_gradients_are_finite_where_the_spectrum_or_the_filter_is_zero(backend: str) -> None:
    x, filter_, bias = SPECTRAL_MIX.make(length=12).values()
    for inputs in ([torch.zeros_like(x), filter_, bias], [x, torch.zeros_like(filter_), bias]):
        compare(SPECTRAL_MIX, inputs, backend)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_mixer_compiles_to_machine_code() -> None:
    mixer = randomise(SpectralMixer(6, 2, SpectralConfig(num_anchors=8)))
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    compiled = torch.compile(mixer, fullgraph=True, dynamic=True)
    assert_same(compiled(x), mixer(x), mixer.parameters())
