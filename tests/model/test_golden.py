"""The published layer, to the last digit: golden inputs, outputs and gradients in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops.numerics import interpolate_anchors

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("paper_v2_*.npz"))


def test_golden_files_are_there() -> None:
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_mixer_and_its_components_are_the_published_layer(path: Path, fused: bool) -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    x_BTD = golden["x"].clone().requires_grad_()
    heads, bins = golden["base_filter"].shape
    mixer = SpectralMixer(x_BTD.shape[2], heads, SpectralConfig(num_anchors=bins)).double()
    mixer.load_state_dict(
        {
            "filter.base_filter": golden["base_filter"],
            "filter.modulation.0.weight": golden["mlp_in_weight"],
            "filter.modulation.0.bias": golden["mlp_in_bias"],
            "filter.modulation.2.weight": golden["mlp_out_weight"],
            "filter.modulation.2.bias": golden["mlp_out_bias"],
            "activation.bias": golden["modrelu_bias"],
        }
    )
    mixed = mixer(x_BTD) if fused else mixer.inspect(x_BTD).output
    leaves = (x_BTD, mixer.filter.base_filter, mixer.activation.bias)
    grads = torch.autograd.grad(mixed, leaves, golden["grad_of_mixed"])
    names = ("mixed", "grad_x", "grad_base_filter", "grad_modrelu_bias")
    for name, actual in zip(names, (mixed.detach(), *grads), strict=True):
        torch.testing.assert_close(actual, golden[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("anchors", "bins"), [(1, 5), (5, 1), (5, 5), (3, 9), (9, 4)])
def test_interpolation_matches_numpy(anchors: int, bins: int) -> None:
    values = torch.randn(2, 3, anchors, dtype=torch.float64)
    where = np.linspace(0, anchors - 1, bins)
    expected = np.apply_along_axis(lambda row: np.interp(where, np.arange(anchors), row), -1, values.numpy())
    np.testing.assert_allclose(interpolate_anchors(values, bins).numpy(), expected, atol=1e-12)
