"""The published layer, to the last digit: golden inputs, outputs and gradients in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fftnet.model.components import (
    AdaptiveSpectralFilter,
    ModReLU,
)
from fftnet.ops.fourier import fourier_transform, inverse_fourier_transform
from fftnet.ops.numerics import interpolate_anchors

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("paper_v2_*.npz"))


def test_golden_files_are_there() -> None:
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_components_match_the_published_layer(path: Path) -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    x_BTD = golden["x"].clone().requires_grad_()
    num_heads, num_bins = golden["base_filter"].shape
    width = x_BTD.shape[-1]
    adaptive = AdaptiveSpectralFilter(width, width, num_heads, num_bins).double()
    activation = ModReLU(num_heads, num_bins).double()
    adaptive.load_state_dict(
        {
            "base_filter": golden["base_filter"],
            "modulation.0.weight": golden["mlp_in_weight"],
            "modulation.0.bias": golden["mlp_in_bias"],
            "modulation.2.weight": golden["mlp_out_weight"],
            "modulation.2.bias": golden["mlp_out_bias"],
        }
    )
    activation.load_state_dict({"bias": golden["modrelu_bias"]})

    spectrum_BHFd = fourier_transform(x_BTD, num_heads)
    filtered_BHFd = activation(spectrum_BHFd * adaptive(x_BTD.mean(dim=1))[..., None])
    mixed_BTD = inverse_fourier_transform(filtered_BHFd, x_BTD.shape[1])
    mixed_BTD.backward(golden["grad_of_mixed"])

    def close(actual: Tensor | None, name: str) -> None:
        assert actual is not None
        torch.testing.assert_close(actual, golden[name], rtol=1e-9, atol=1e-9)

    close(mixed_BTD.detach(), "mixed")
    close(x_BTD.grad, "grad_x")
    close(adaptive.base_filter.grad, "grad_base_filter")
    close(activation.bias.grad, "grad_modrelu_bias")


@pytest.mark.parametrize(("anchors", "bins"), [(1, 5), (5, 1), (5, 5), (3, 9), (9, 4)])
def test_interpolation_matches_numpy(anchors: int, bins: int) -> None:
    values = torch.randn(2, 3, anchors, dtype=torch.float64)
    where = np.linspace(0, anchors - 1, bins)
    expected = np.apply_along_axis(lambda row: np.interp(where, np.arange(anchors), row), -1, values.numpy())
    np.testing.assert_allclose(interpolate_anchors(values, bins).numpy(), expected, atol=1e-12)
