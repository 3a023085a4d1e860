"""Keyed and bidirectional mixing beyond test_backends.py: bad numbers, zeros, capacity."""

import shutil

import pytest
import torch
from conftest import assert_same, randomise
from operators import DELTA_MIX, KEYED_MIX, SPECTRAL_MIX, Operator, compare, normal_numbers, results
from torch import Tensor

from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops.delta_mix import delta_mix
from fftnet.ops.keyed_mix import keyed_mix
from fftnet.ops.spectral_mix import spectral_mix

FAST = KEYED_MIX.fast()


def layer_of_section_2(
    values: Tensor, gain: Tensor, readout: Tensor, decay: Tensor, frequency: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``y(t) = Re sum_k C_k f_k(t) Z_k(t)`` by direct sums, and Z after the last token as planes.

    ``Z_k(t) = sum_{j<=t} lambda_k^(t-j) v(j) + lambda_k^(t+1) Z_k(-1)`` with ``lambda = exp(-a + i w)``. A
    bias of 0 makes modReLU the identity.
    """
    rate_HF = torch.complex(-decay, frequency)
    t = torch.arange(values.shape[1])
    is_past_TT = t[:, None] >= t
    age_TT = (t[:, None] - t) * is_past_TT
    power_TTHF = torch.exp(age_TT[..., None, None] * rate_HF) * is_past_TT[..., None, None]
    carry_THF = torch.exp((t + 1)[:, None, None] * rate_HF)
    spectrum = torch.einsum("tjhf,bjhd->bthfd", power_TTHF, values.to(torch.complex128))
    spectrum = spectrum + torch.einsum("thf,bhfd->bthfd", carry_THF, torch.complex(*state.unbind(dim=2)))
    mixed = torch.einsum("hf,bthf,bthfd->bthd", torch.complex(*readout.unbind(-1)), gain + 0j, spectrum).real
    last = spectrum[:, -1]
    return mixed, torch.stack([last.real, last.imag], dim=2)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_a_key_of_one_and_a_real_filter_give_the_causal_layer(backend: str) -> None:
    """The layer of section 2 of docs/maths.md, with a bias of 0 for modReLU and a clock of one token."""
    values, key, filter_, clock, decay, frequency, state = KEYED_MIX.make(length=70).values()
    key = torch.stack([torch.ones_like(key[..., 0, :]), torch.zeros_like(key[..., 0, :])], dim=-2)
    normal = normal_numbers(1)
    gain, readout = filter_[..., 0, :].clone(), normal(*decay.shape, 2)

    def keyed(
        values: Tensor, gain: Tensor, readout: Tensor, decay: Tensor, frequency: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        read = gain[..., None, :] * readout.movedim(-1, -2)
        one = torch.ones_like(clock)
        return keyed_mix(values, key, read, one, decay, frequency, state, backend=backend)

    upstream = (normal(*values.shape), normal(*state.shape))
    found = []
    for layer in (keyed, layer_of_section_2):
        leaves = [x.clone().requires_grad_() for x in (values, gain, readout, decay, frequency, state)]
        outputs = layer(*leaves)
        found.append([*outputs, *torch.autograd.grad(outputs, leaves, upstream)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


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
@pytest.mark.parametrize("operator", [KEYED_MIX, DELTA_MIX], ids=str)
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
