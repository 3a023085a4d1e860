"""Inspection: the weights of tokens reproduce the read-outs of the mixers."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from conftest import randomise
from models import CAUSAL, HYBRIDS, VOCAB, make, tokens
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.evaluation.inspection import MixerNumbers, inspect_mixer, inspect_tokens, loss_by_position
from fftnet.model.mixers import MIXERS, build_mixer

HAS = {
    "addressed_spectral": {"base_filter", "filter", "frequency", "time_scale", "spectrum", "weights"},
    "delta_spectral": {"base_filter", "filter", "frequency", "time_scale", "spectrum", "weights"},
    "spectral": {"base_filter", "filter", "frequency"},
    "attention": {"weights"},
    "bidirectional_attention": {"weights"},
    "fnet": set(),
}


def mixer_of(name: str, config: dict[str, Any] | None = None) -> Any:
    return randomise(build_mixer(name, 12, 2, config))


@torch.no_grad()
def projected(mixer: nn.Module, x: Tensor) -> Tensor:
    """Return the input of the fused mixer's output projection, (T, D)."""
    seen: list[Tensor] = []
    hook = mixer.get_submodule("project_out").register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    mixer(x)
    hook.remove()
    return seen[0][0]


@pytest.mark.parametrize("length", [1, 2, 7, 31])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("addressed_spectral", {}),
        ("addressed_spectral", {"num_bins": 1, "conv_size": 2}),
        ("addressed_spectral", {"context_horizon": 3}),
        ("delta_spectral", {"tracking": True}),
        ("attention", None),
        ("bidirectional_attention", None),
    ],
)
def test_weights_times_values_are_the_output_of_the_mixer(
    name: str, config: dict[str, Any] | None, length: int
) -> None:
    mixer = mixer_of(name, config)
    x = torch.randn(1, length, 12, dtype=torch.float64)
    view, numbers = mixer.inspect(x), inspect_mixer(mixer, x)
    assert numbers.weights is not None
    mixed_THd = torch.einsum("htj,jhd->thd", numbers.weights, view.values[0])
    if name == "delta_spectral":
        torch.testing.assert_close(mixed_THd, view.mixed[0], rtol=1e-9, atol=1e-9)
        return
    if name == "addressed_spectral":
        torch.testing.assert_close(mixed_THd, view.mixed[0], rtol=1e-9, atol=1e-9)
        gate_THd = mixer.project_gate(x)[0].unflatten(-1, (2, 6)).sigmoid()
        root = (mixed_THd.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        mixed_THd = mixed_THd / root * mixer.norm_weight * gate_THd
    torch.testing.assert_close(projected(mixer, x), mixed_THd.flatten(1), rtol=1e-8, atol=1e-8)
    if "attention" in name:
        torch.testing.assert_close(view.output, mixer(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(numbers.weights.sum(dim=-1), torch.ones(2, length).double())


@pytest.mark.parametrize("name", MIXERS)
def test_each_kind_of_mixer_has_its_numbers(name: str) -> None:
    numbers = inspect_mixer(mixer_of(name), torch.randn(1, 9, 12, dtype=torch.float64))
    assert {field.name for field in fields(numbers) if getattr(numbers, field.name) is not None} == HAS[name]
    for field in HAS[name]:
        assert torch.isfinite(getattr(numbers, field)).all()
    if numbers.weights is not None:
        later_HTT = numbers.weights.triu(1)
        assert (later_HTT == 0).all() if name in CAUSAL else (later_HTT.sum(dim=-1)[:, :-1] > 0).all()
    assert inspect_mixer(nn.Linear(3, 3), torch.zeros(1, 2, 3)) == MixerNumbers()


def test_scales_and_frequencies_are_counted_in_tokens() -> None:
    mixer = build_mixer("addressed_spectral", 12, 2)
    with torch.no_grad():
        mixer.transform.log_decay.fill_(-math.log(20))
        mixer.transform.frequency.fill_(2 * math.pi / 10)
        mixer.clock.bias.copy_(torch.tensor([1.0, 2.0]).expm1().log())
    numbers = inspect_mixer(mixer, torch.randn(1, 5, 12))
    assert numbers.time_scale is not None
    assert numbers.frequency is not None
    torch.testing.assert_close(numbers.time_scale[:, 0], torch.tensor([20.0, 10.0]).double())
    torch.testing.assert_close(1 / numbers.frequency[:, 0], torch.tensor([10.0, 5.0]).double())


@pytest.mark.parametrize("pattern", [*((name,) for name in CAUSAL), *HYBRIDS])
def test_every_layer_is_inspected_with_its_own_input(pattern: tuple[str, ...]) -> None:
    model = make(mixers=pattern).train()
    inspection = inspect_tokens(model, tokens(1, 9)[0])
    assert model.training
    assert inspection.mixers == tuple(model.config.layer_mixers)
    model.eval()
    x = model.embedding(tokens(1, 9))
    for layer, numbers in zip(model.backbone.layers, inspection.layers, strict=True):
        alone = inspect_mixer(layer.get_submodule("mixer"), layer.get_submodule("mixer_norm")(x))
        for field in fields(numbers):
            torch.testing.assert_close(getattr(numbers, field.name), getattr(alone, field.name))
        x = layer(x)


def test_a_bidirectional_model_has_filters_only() -> None:
    model = make(mixers=("spectral", "fnet"), causal=False)
    inspection = inspect_tokens(model, tokens(1, 8)[0])
    assert inspection.mixers == ("spectral", "fnet")
    first, second = inspection.layers
    assert first.filter is not None
    assert first.filter.shape == (1, 2, 5)
    assert first.frequency is not None
    assert first.frequency[0].tolist() == [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8]
    assert second == MixerNumbers()
    with torch.no_grad():
        model.backbone.norm.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite: its weights are damaged"):
        inspect_tokens(model, tokens(1, 4)[0])


@pytest.mark.parametrize("length", [2, 16, 17, 40])
def test_losses_are_those_of_one_forward_pass_over_the_text(length: int) -> None:
    model = make()
    ids = torch.randint(0, VOCAB, (length,))
    losses = loss_by_position(model, ids)
    with torch.no_grad():
        whole = F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")
        fresh = [
            F.cross_entropy(model(part[None, :-1])[0], part[1:], reduction="none")
            for part in (ids[start : start + 17] for start in range(0, length - 1, 16))
        ]
    for row in losses.carried:
        assert row.loss == pytest.approx(float(whole[row.first : row.last + 1].mean()), rel=1e-5)
    assert sum(row.tokens for row in losses.carried) == length - 1
    assert losses.fresh == pytest.approx(float(torch.cat(fresh).mean()), rel=1e-5)
