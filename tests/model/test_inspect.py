"""Inspection: the components one by one compute what the fused operators compute."""

import pytest
import torch
from conftest import assert_same, randomise
from torch import nn

from fftnet.model.mixers import build_mixer

CASES = [
    ("spectral", {"num_anchors": 8}),
    ("addressed_spectral", {}),
    ("delta_spectral", {}),
    ("delta_spectral", {"expand": 1, "num_bins": 9, "tracking": True}),
]


@pytest.mark.parametrize(("name", "fields"), CASES)
@pytest.mark.parametrize("length", [1, 2, 37, 300])
def test_inspection_is_the_fused_mixer(name: str, fields: dict[str, object], length: int) -> None:
    mixer = randomise(build_mixer(name, 6, 2, fields))
    x = torch.randn(2, length, 6, dtype=torch.float64, requires_grad=True)
    assert_same(mixer.inspect(x).output, mixer(x), [x, *mixer.parameters()])


def test_the_intermediate_results_follow_from_each_other() -> None:
    mixer = randomise(build_mixer("spectral", 6, 2))
    x = torch.randn(2, 12, 6, dtype=torch.float64)
    view = mixer.inspect(x)
    torch.testing.assert_close(view.filtered, view.spectrum * view.filter[..., None])
    bias = nn.functional.interpolate(mixer.activation.bias[None], size=7, mode="linear", align_corners=True)
    torch.testing.assert_close(
        view.spectrum.flatten(1),
        torch.fft.rfft(x, dim=1, norm="ortho").unflatten(2, (2, 3)).transpose(1, 2).flatten(1),
    )
    size = view.filtered.abs()
    expected = torch.relu(size + bias[0][..., None]) * size / size.clamp(min=mixer.activation.eps)
    torch.testing.assert_close(view.activated.abs(), expected)
    moved = expected > 0
    torch.testing.assert_close(view.activated.angle()[moved], view.filtered.angle()[moved])


def test_the_prefix_spectrum_is_the_sum_over_the_past() -> None:
    mixer = randomise(build_mixer("addressed_spectral", 6, 2, {"num_bins": 4}))
    view = mixer.inspect(torch.randn(1, 9, 6, dtype=torch.float64))
    rate = torch.complex(-mixer.transform.log_decay.exp(), mixer.transform.frequency)
    total = torch.zeros(1, 2, 4, 3, dtype=torch.complex128)
    for t in range(9):
        pole = torch.exp(view.clock[:, t, :, None] * rate)
        total = pole[..., None] * total + view.key[:, t, ..., None] * view.values[:, t, :, None]
        torch.testing.assert_close(view.spectrum[:, t], total)
        read = (view.filter[:, t, ..., None] * view.spectrum[:, t]).real
        torch.testing.assert_close(view.mixed[:, t], read.sum(dim=2))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("spectral", "transform filter activation inverse"),
        ("addressed_spectral", "context transform key filter activation clock"),
        ("delta_spectral", "context transform key filter activation clock erase"),
    ],
)
def test_hooks_on_the_components_run(name: str, parts: str) -> None:
    mixer = build_mixer(name, 8, 2)
    seen = set()
    for part in parts.split():
        mixer.get_submodule(part).register_forward_hook(lambda *_, part=part: seen.add(part))
    mixer.inspect(torch.randn(1, 5, 8))
    assert seen == set(parts.split())


def test_narrow_tokens_are_inspected_in_full_precision() -> None:
    mixer = build_mixer("spectral", 8, 2).bfloat16()
    x = torch.randn(2, 11, 8).bfloat16()
    view = mixer.inspect(x)
    assert (view.output.dtype, view.spectrum.dtype) == (torch.bfloat16, torch.complex64)
    assert (view.output - mixer(x)).float().norm() < 0.02 * view.output.float().norm()
    with pytest.raises(ValueError, match="at least one token, got a sequence of length 0"):
        mixer.inspect(x[:, :0])
