"""Initialization: models built on the meta device, reset, and the distributions of initial weights."""

import math
from typing import Any

import pytest
import torch
from models import CAUSAL, VOCAB, tokens
from torch import nn

from fftnet import FFTNet, FFTNetConfig
from fftnet.model import reset_parameters
from fftnet.model.mixers import MIXERS


def config(name: str) -> FFTNetConfig:
    return FFTNetConfig(vocab_size=VOCAB, d_model=64, num_layers=1, causal=name in CAUSAL, mixers=(name,))


@pytest.mark.parametrize("name", MIXERS)
def test_a_model_is_built_on_the_meta_device_and_reset_to_a_working_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.linspace
    # Transformers patches torch.linspace like this while it builds a model on the meta device.
    patched = lambda *args, **kwargs: original(*args, **(kwargs | {"device": "cpu"}))  # noqa: E731
    monkeypatch.setattr(torch, "linspace", patched)
    with torch.device("meta"):
        model = FFTNet(config(name))
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)
    reset_parameters(model)
    for key, value in model.state_dict().items():
        assert torch.isfinite(value).all(), key
    assert torch.isfinite(model(tokens(2, 9))).all()


@pytest.mark.parametrize("name", MIXERS)
def test_every_owner_of_parameters_resets_its_own_and_no_others(name: str) -> None:
    model = FFTNet(config(name))
    for module in model.modules():
        own = set(module.parameters(recurse=False))
        if own:
            for parameter in model.parameters():
                nn.init.constant_(parameter, math.nan)
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
            assert all(torch.isfinite(parameter).all() for parameter in own)
            assert all(torch.isnan(parameter).all() for parameter in set(model.parameters()) - own)


def test_initial_weights_are_those_of_the_documentation() -> None:
    model = FFTNet(FFTNetConfig(vocab_size=500, d_model=128, num_layers=1))
    mixer: Any = model.backbone.layers[0].mixer
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    time_scales = (-mixer.transform.log_decay).exp()
    count = time_scales.numel()
    expected = 2.0 * 256.0 ** (torch.arange(count) / (count - 1))
    torch.testing.assert_close(time_scales.T.flatten(), expected, rtol=1e-4, atol=0)
    angle = mixer.transform.frequency * time_scales
    assert ((angle >= 0) & (angle <= 1)).all()
    assert angle.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.3)
    for base in (mixer.filter.base_filter, mixer.key.base_key):
        assert (base[:, 0] == 1).all()
        assert (base[:, 1] == 0).all()
    assert (mixer.activation.bias == 0).all()
    torch.testing.assert_close(mixer.clock(torch.randn(3, 128)), torch.ones(3, mixer.num_heads))
    newest = mixer.conv_weight[:128, -1]
    older = mixer.conv_weight[:128, :-1]
    assert (newest.min() >= 0.5, newest.max() <= 1.5, older.abs().max() <= 0.5) == (True, True, True)
    assert older.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.1)
    bidirectional: Any = FFTNet(config("spectral")).backbone.layers[0].mixer
    assert (bidirectional.activation.bias == -0.1).all(), "the paper's bias"
