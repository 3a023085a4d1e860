"""The whole model: causality, any length, precision, configurations, files."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CAUSAL, MODELS, VOCAB, make, tokens

from fftnet import FFTNet, FFTNetConfig
from fftnet.model import BackboneConfig
from fftnet.model.exchange import LIBRARY_FIELDS
from fftnet.model.mixers import MIXERS
from fftnet.model.mixers.addressed_spectral import AddressedSpectralConfig
from fftnet.model.mixers.delta_spectral import DeltaSpectralConfig
from fftnet.model.mixers.spectral import SpectralConfig
from fftnet.serialization import CheckpointError
from fftnet.testing import CausalityError, assert_causal


@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_every_causal_configuration_is_causal(fields: dict[str, object]) -> None:
    assert_causal(make(**fields), tokens(2, 24), vocab_size=VOCAB)


@pytest.mark.parametrize("name", [name for name in MIXERS if name not in CAUSAL])
def test_a_bidirectional_model_is_not_causal(name: str) -> None:
    with pytest.raises(CausalityError, match="output 0 sees the future: changing input 1 moved") as info:
        assert_causal(make(causal=False, mixers=(name,)), tokens(2, 24), vocab_size=VOCAB)
    assert (info.value.position, info.value.changed) == (0, 1)


def test_positions_of_an_untrained_bidirectional_model_are_as_large_as_its_embeddings() -> None:
    torch.manual_seed(0)
    model = FFTNet(FFTNetConfig(vocab_size=VOCAB, d_model=64, num_layers=1, num_heads=2, causal=False))
    read = model.embedding(tokens(8, 300))
    seen: list[torch.Tensor] = []
    model.backbone(read, collected=seen)
    positions = seen[0] - read
    assert positions.std(dim=1).max() > 0, "positions differ"
    torch.testing.assert_close(positions.std().item(), read.std().item(), rtol=0.3, atol=0.0)


@pytest.mark.parametrize("name", MIXERS)
def test_float64_is_the_truth_of_float32(name: str) -> None:
    config = FFTNetConfig(vocab_size=VOCAB, d_model=32, causal=name in CAUSAL, mixers=(name,))
    model = FFTNet(config)
    text = tokens(2, 40)
    single = model(text)
    truth = model.double()(text)
    assert (single - truth).norm() < 2e-6 * truth.norm()


def test_biases_of_modrelu_do_not_magnify_round_off() -> None:
    def gradient(model: FFTNet) -> torch.Tensor:
        model.zero_grad()
        logits = model(text)[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
        return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])

    text = tokens(8, 64)
    for _ in range(5):
        model = FFTNet(FFTNetConfig(vocab_size=VOCAB, d_model=32))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "activation" in name:
                    parameter.normal_(std=0.05)
        single = gradient(model)
        truth = gradient(model.double())
        assert (single - truth).norm() < 1e-4 * truth.norm()


@pytest.mark.parametrize("name", ["attention", "bidirectional_attention"])
def test_attention_needs_pairs_of_channels(name: str) -> None:
    with pytest.raises(ValueError, match="even head width, got 3 from d_model=6 and num_heads=2"):
        make(mixers=(name,), causal=name in CAUSAL, d_model=6)


def test_hybrids_repeat_their_pattern_and_must_be_causal() -> None:
    config = FFTNetConfig(vocab_size=3, num_layers=3, mixers=("spectral", "delta_spectral"), causal=False)
    assert config.layer_mixers == ["spectral", "delta_spectral", "spectral"]
    with pytest.raises(ValueError, match="causal=True needs causal mixers, but 'spectral' sees the whole"):
        FFTNet(FFTNetConfig(vocab_size=3, mixers=("delta_spectral", "spectral")))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_model", 0, "d_model must be at least 1"),
        ("num_heads", 3, "num_heads=3 must divide d_model=128"),
        ("delta_spectral", {"num_bins": 0}, "num_bins must be at least 1, got 0"),
        ("delta_spectral", {"conv_size": 1}, "conv_size must be at least 2, got 1"),
        ("spectral", {"mlp_hidden_dim": 0}, "mlp_hidden_dim must be at least 1 or"),
        ("delta_spectral", {"taps": 4}, "'delta_spectral' has no field 'taps'; choose from expand"),
        ("mamba", {}, "unknown mixer 'mamba'; choose from addressed_spectral, delta_spectral"),
        ("delta_spectral", SpectralConfig(), "takes a DeltaSpectralConfig, got SpectralConfig"),
        ("spectral", {"num_anchors": 5}, "sets fields of 'spectral', but the layers use addressed"),
        ("mixers", ("mamba",), "unknown mixer 'mamba'"),
        ("vocab_size", 0, "vocab_size must be at least 1"),
        ("max_seq_length", 0, "max_seq_length must be at least 1"),
        ("dropout", 1.0, r"dropout must lie in \[0, 1\)"),
        ("ffn_dim", -1, "ffn_dim must be 0 or more"),
        ("num_layers", 0, "num_layers must be at least 1"),
    ],
)
def test_wrong_fields_are_refused(field: str, value: Any, message: str) -> None:
    known = field in FFTNetConfig.__dataclass_fields__
    values: dict[str, Any] = {"vocab_size": 3}
    values |= {field: value} if known else {"mixer_configs": {field: value}}
    with pytest.raises(ValueError, match=message):
        FFTNetConfig(**values)


@pytest.mark.parametrize("name", MIXERS)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    model = make(causal=name in CAUSAL, mixers=(name,)).float()
    model.save_pretrained(tmp_path)
    loaded = FFTNet.from_pretrained(tmp_path)
    assert loaded.config == model.config
    torch.testing.assert_close(loaded(tokens(2, 9)), model(tokens(2, 9)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"d_model": 8', '"d_model": 16', r"model\.safetensors holds .* of shape"),
        ('"d_model"', '"width"', "does not know: width"),
        ('"fftnet"', '"mamba"', r"config\.json is that of a model of type 'mamba', not 'fftnet'"),
        ('"FFTNetForCausalLM"\n', '"Other"\n', r"is that of \['Other'\], not of FFTNet: load it with that"),
        ('"num_bins"', '"taps"', "does not describe a model: mixer 'addressed_spectral' has no field 'taps'"),
        ('"d_model": 8', '"d_model": "8"', "does not describe a model"),
        ('"vocab_size": 11', '"max_seq_length": 4', "does not describe a model: .*vocab_size"),
        (None, '{"vocab_size": 11, "mixer_configs": []}', "mixer_configs must be a dictionary, got"),
        (None, "[]", "does not describe a model: it holds no fields"),
    ],
)
def test_damaged_checkpoints_are_refused(old: str | None, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        FFTNet.from_pretrained(tmp_path)
    make().float().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text()
    assert old is None or old in text
    path.write_text(new if old is None else text.replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        FFTNet.from_pretrained(tmp_path)


def test_the_configuration_file_names_the_model_and_its_fields(tmp_path: Path) -> None:
    model = make(mixers=("delta_spectral", "attention"), delta_spectral={"num_bins": 3}).float()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["model_type"], values["architectures"]) == ("fftnet", ["FFTNetForCausalLM"])
    own = asdict(DeltaSpectralConfig(num_bins=3))
    assert values["mixer_configs"] == {"delta_spectral": own, "attention": {}}
    fields = {name: value for name, value in values.items() if name not in LIBRARY_FIELDS}
    assert FFTNetConfig(**fields) == model.config
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert FFTNet.from_pretrained(tmp_path).config == model.config


def test_a_configuration_takes_dictionaries_and_ignores_defaults_of_unused_mixers() -> None:
    config = FFTNetConfig(vocab_size=3, mixer_configs={"addressed_spectral": {"num_bins": 2}, "spectral": {}})
    assert config.mixer_configs == {"addressed_spectral": AddressedSpectralConfig(num_bins=2)}
    assert FFTNetConfig(vocab_size=3).mixer_configs == {"addressed_spectral": AddressedSpectralConfig()}
    assert replace(config, d_model=64).mixer_configs == config.mixer_configs
    backbone = BackboneConfig(mixer_configs={"addressed_spectral": {"num_bins": 2}})
    assert FFTNetConfig(**vars(backbone), vocab_size=3) == config
