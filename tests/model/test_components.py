"""The components of a layer, and the theorem that joins the two forms (docs/maths.md)."""

import math

import pytest
import torch
from conftest import randomise

from fftnet.model.components import (
    AdaptiveSpectralFilter,
    ModReLU,
    PrefixFourierTransform,
    PrefixInverse,
)
from fftnet.model.mixers import MIXERS, build_mixer
from fftnet.ops import causal_mix as prefix
from fftnet.ops.fourier import fourier_transform, inverse_fourier_transform


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 97])
def test_the_transform_pair_inverts(length: int) -> None:
    x = torch.randn(2, length, 6, dtype=torch.float64)
    torch.testing.assert_close(inverse_fourier_transform(fourier_transform(x, 3), length), x)


@pytest.mark.parametrize("grid", [24, 32])
def test_theorem_the_causal_layer_is_the_published_one_on_every_prefix(grid: int) -> None:
    heads, width = 2, 6
    bins = grid // 2 + 1
    adaptive = randomise(AdaptiveSpectralFilter(width, width, heads, bins))
    activation = randomise(ModReLU(heads, bins))
    x = torch.randn(2, grid - 3, width, dtype=torch.float64)

    # The parameters of the theorem: no decay, frequencies of the grid, weights of a real inverse transform.
    transform = PrefixFourierTransform(heads, bins).double()
    inverse = PrefixInverse(heads, bins).double()
    weight = torch.full((heads, bins), 2.0, dtype=torch.float64)
    weight[:, [0, -1]] = 1.0
    with torch.no_grad():
        transform.log_decay.fill_(-math.inf)
        transform.frequency.copy_(2 * math.pi / grid * torch.arange(bins).double().expand(heads, bins))
        inverse.readout.copy_(torch.stack([weight, torch.zeros_like(weight)], dim=-1) / math.sqrt(grid))
    decay, frequency = transform()
    causal, _ = prefix.causal_mix(
        x.unflatten(-1, (heads, -1)),
        adaptive(x.cumsum(dim=1) / grid) / math.sqrt(grid),
        prefix.HeadParameters(decay, frequency, activation(), inverse()),
        transform.init_state(2, width // heads),
        eps=activation.eps,
    )
    for t in range(x.shape[1]):
        padded = torch.zeros(2, grid, width, dtype=torch.float64)
        padded[:, : t + 1] = x[:, : t + 1]
        spectrum = fourier_transform(padded, heads) * adaptive(padded.mean(dim=1))[..., None]
        published = inverse_fourier_transform(activation(spectrum), grid)
        torch.testing.assert_close(causal[:, t].flatten(1), published[:, t], rtol=1e-9, atol=1e-9)


def test_the_prefix_spectrum_has_the_same_size_at_every_time_scale() -> None:
    transform = PrefixFourierTransform(4, 4, longest=500.0)
    spectrum, _ = transform(torch.randn(8, 4000, 4, 8))
    size_HF = spectrum[:, 3000:].abs().square().mean(dim=(0, 1, 4))
    assert ((size_HF > 0.7) & (size_HF < 1.4)).all()


@pytest.mark.parametrize("name", MIXERS)
def test_narrow_dtypes_and_autocast_change_little(name: str) -> None:
    mixer = build_mixer(name, 8, 2).eval()
    x = torch.randn(2, 11, 8)
    wide = mixer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (mixer(x).float() - wide).norm() < 0.05 * wide.norm()
    for dtype in (torch.bfloat16, torch.float16):
        narrow = mixer.to(dtype)(x.to(dtype))
        assert narrow.dtype == dtype
        assert (narrow.float() - wide).norm() < 0.05 * wide.norm()


def test_an_empty_sequence_and_an_unknown_mixer_are_refused() -> None:
    for name in MIXERS:
        with pytest.raises(ValueError, match="at least one token, got a sequence of length 0"):
            build_mixer(name, 8, 2)(torch.zeros(1, 0, 8))
    with pytest.raises(ValueError, match="unknown mixer 'x'; choose from addressed_spectral, delta_spec"):
        build_mixer("x", 8)
