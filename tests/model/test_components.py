"""The components of a layer, and the theorem that joins the two forms (docs/maths.md)."""

import math
from pathlib import Path

import pytest
import torch
from conftest import randomise
from models import make
from torch import Tensor

import fftnet
from fftnet import FFTNetConfig
from fftnet.model.components import (
    AdaptiveSpectralFilter,
    ModReLU,
    PrefixFourierTransform,
    gain,
)
from fftnet.model.mixers import MIXERS, build_mixer
from fftnet.ops.fourier import fourier_transform, inverse_fourier_transform
from fftnet.ops.keyed_mix.eager import keyed_spectrum
from fftnet.serialization import CheckpointError


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 97])
def test_the_transform_pair_inverts(length: int) -> None:
    x = torch.randn(2, length, 6, dtype=torch.float64)
    torch.testing.assert_close(inverse_fourier_transform(fourier_transform(x, 3), length), x)


def prefix_spectrum(values: Tensor, scale: Tensor, decay: Tensor, frequency: Tensor) -> Tensor:
    """Return ``scale_k sum_{j<=t} exp((t - j) (-a_k + i w_k)) v(j)``, complex (B, T, H, F, d)."""
    batch, tokens, heads, width = values.shape
    key = torch.stack([scale, torch.zeros_like(scale)], dim=1).expand(batch, tokens, -1, -1, -1)
    state = values.new_zeros(batch, heads, 2, decay.shape[1], width)
    return keyed_spectrum(values, key, values.new_ones(batch, tokens, heads), decay, frequency, state)


@pytest.mark.parametrize("grid", [24, 32])
def test_theorem_the_causal_layer_is_the_published_one_on_every_prefix(grid: int) -> None:
    heads, width = 2, 6
    bins = grid // 2 + 1
    adaptive = randomise(AdaptiveSpectralFilter(width, width, heads, bins))
    activation = randomise(ModReLU(heads, bins))
    x = torch.randn(2, grid - 3, width, dtype=torch.float64)

    # The parameters of the theorem: no decay, frequencies of the grid, weights of a real inverse transform.
    frequency = 2 * math.pi / grid * torch.arange(bins).double().expand(heads, bins)
    readout = torch.full((heads, bins, 1), 2.0, dtype=torch.float64)
    readout[:, [0, -1]] = 1.0
    spectrum = prefix_spectrum(
        x.unflatten(-1, (heads, -1)),
        torch.full_like(frequency, 1 / math.sqrt(grid)),
        torch.zeros_like(frequency),
        frequency,
    )
    filtered = adaptive(x.cumsum(dim=1) / grid)[..., None] * spectrum
    causal = (activation(filtered) * readout).real.sum(dim=3) / math.sqrt(grid)
    for t in range(x.shape[1]):
        padded = torch.zeros(2, grid, width, dtype=torch.float64)
        padded[:, : t + 1] = x[:, : t + 1]
        spectrum = fourier_transform(padded, heads) * adaptive(padded.mean(dim=1))[..., None]
        published = inverse_fourier_transform(activation(spectrum), grid)
        torch.testing.assert_close(causal[:, t].flatten(1), published[:, t], rtol=1e-9, atol=1e-9)


def test_the_prefix_spectrum_has_the_same_size_at_every_time_scale() -> None:
    transform = PrefixFourierTransform(4, 4, shortest=2.0, longest=500.0)
    decay, frequency = transform()
    spectrum = prefix_spectrum(torch.randn(8, 4000, 4, 8), gain(decay), decay, frequency)
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


def test_the_mixer_that_was_removed_is_refused_in_one_sentence(tmp_path: Path) -> None:
    sentence = (
        r"mixer 'causal_spectral' was removed in version 0\.4: load its checkpoints with version 0\.3, or "
        "train delta_spectral instead$"
    )
    with pytest.raises(ValueError, match=f"^{sentence}"):
        FFTNetConfig(vocab_size=3, mixers=("causal_spectral",))
    model = make(mixers=("delta_spectral",))
    model.float().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("delta_spectral", "causal_spectral"))
    with pytest.raises(CheckpointError, match=rf"config\.json does not describe a model: {sentence}") as info:
        fftnet.load(tmp_path)
    assert isinstance(info.value.__cause__, ValueError)
