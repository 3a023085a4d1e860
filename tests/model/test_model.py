"""The whole model: causality, any length, padding, saving."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import CAUSAL, VARIANTS, VOCAB, make, tokens

from fftnet import FFTNet, FFTNetConfig
from fftnet.model import BackboneConfig
from fftnet.model.exchange import LIBRARY_FIELDS
from fftnet.model.mixers import MIXERS
from fftnet.model.mixers.addressed_spectral import AddressedSpectralConfig
from fftnet.model.mixers.spectral import SpectralConfig
from fftnet.serialization import CheckpointError
from fftnet.testing import CausalityError, assert_causal, first_token_loss


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_causal_configuration_is_causal(name: str, variant: dict[str, object]) -> None:
    model = make(mixers=(name,), **variant)
    assert_causal(model, tokens(2, 24), vocab_size=VOCAB)


@pytest.mark.parametrize("name", [name for name in MIXERS if name not in CAUSAL])
def test_the_bidirectional_model_leaks_and_the_position_is_named(name: str) -> None:
    with pytest.raises(CausalityError, match="output 0 sees the future: changing input 1 moved") as info:
        assert_causal(make(causal=False, mixers=(name,)), tokens(2, 24), vocab_size=VOCAB)
    assert (info.value.position, info.value.changed) == (0, 1)


def test_a_fresh_bidirectional_model_sees_tokens_as_much_as_their_positions() -> None:
    torch.manual_seed(0)
    model = FFTNet(FFTNetConfig(vocab_size=VOCAB, d_model=64, num_layers=1, num_heads=2, causal=False))
    read = model.embedding(tokens(8, 300))
    seen: list[torch.Tensor] = []
    model.backbone(read, collected=seen)
    positions = seen[0] - read
    assert positions.std(dim=1).max() > 0, "positions differ"
    torch.testing.assert_close(positions.std().item(), read.std().item(), rtol=0.3, atol=0.0)


def test_a_late_leak_is_found_where_it_is() -> None:
    def peek(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 5] += 1e-3 * x[:, 9]
        return y

    with pytest.raises(CausalityError) as info:
        assert_causal(peek, torch.randn(2, 12, 3, dtype=torch.float64))
    assert (info.value.position, info.value.changed) == (5, 9)
    assert_causal(peek, torch.randn(2, 12, 3, dtype=torch.float64), positions=[3, 10])


def test_assert_causal_puts_the_mode_back() -> None:
    model = make(dropout=0.5).train()
    assert_causal(model, tokens(1, 6), vocab_size=VOCAB)
    assert model.training


def test_first_token_loss_tells_a_copier_from_an_honest_model() -> None:
    rows = [torch.randint(0, VOCAB, (64, 9), generator=torch.Generator().manual_seed(n)) for n in range(4)]

    def copier(inputs: torch.Tensor) -> torch.Tensor:
        return 20.0 * torch.nn.functional.one_hot(inputs.roll(-1, dims=1), VOCAB).double()

    def uniform(inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*inputs.shape, VOCAB)

    assert first_token_loss(copier, rows) < 1e-4
    assert first_token_loss(uniform, rows) == pytest.approx(torch.tensor(float(VOCAB)).log().item())
    with pytest.raises(ValueError, match="at least one row"):
        first_token_loss(uniform, [])


@pytest.mark.parametrize("name", MIXERS)
def test_any_length(name: str) -> None:
    model = make(causal=name in CAUSAL, mixers=(name,))
    for length in [*range(1, 71), 97, 199]:
        logits = model(tokens(1, length))
        assert logits.shape == (1, length, VOCAB)
        assert torch.isfinite(logits).all()


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


@pytest.mark.parametrize("name", MIXERS)
def test_a_row_does_not_depend_on_its_padding_or_its_neighbours(name: str) -> None:
    model = make(causal=name in CAUSAL, mixers=(name,))
    rows = [tokens(1, length)[0] for length in (5, 1, 9, 6, 5)]
    for width, left in ((9, False), (14, False), (14, True)):
        batch = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            span = slice(width - len(row), width) if left else slice(0, len(row))
            batch[index, span] = row
            mask[index, span] = True
        logits = model(batch, mask)
        for index, row in enumerate(rows):
            torch.testing.assert_close(logits[index, mask[index]], model(row[None])[0], rtol=1e-9, atol=1e-9)


def test_attention_needs_pairs_of_channels() -> None:
    with pytest.raises(ValueError, match="even head width, got 3 from d_model=6 and num_heads=2"):
        make(mixers=("attention",), d_model=6)
    with pytest.raises(ValueError, match="even head width, got 3 from d_model=6 and num_heads=2"):
        make(mixers=("bidirectional_attention",), causal=False, d_model=6)


def test_hybrids_of_attention_and_spectral_layers_are_causal() -> None:
    model = make(mixers=("causal_spectral", "attention"))
    assert_causal(model, tokens(2, 24), vocab_size=VOCAB)
    text = tokens(2, 24)
    logits, state = model.prefill(text[:, :20], chunk_size=7)
    for t in range(20, 24):
        step_BV, state = model.step(text[:, t], state)
        logits = torch.cat([logits, step_BV[:, None]], dim=1)
    torch.testing.assert_close(logits, model(text), rtol=1e-9, atol=1e-9)


def test_a_bidirectional_layer_resamples_its_filter_between_lengths() -> None:
    model = make(causal=False, spectral={"num_anchors": 9})
    assert model.backbone.layers[0].mixer.filter.base_filter.shape == (2, 9)  # pyright: ignore
    with pytest.raises(ValueError, match="a bidirectional model has no state"):
        model.init_state(1)


def test_hybrids_repeat_their_pattern_and_must_be_causal() -> None:
    config = FFTNetConfig(vocab_size=3, num_layers=3, mixers=("spectral", "causal_spectral"), causal=False)
    assert config.layer_mixers == ["spectral", "causal_spectral", "spectral"]
    with pytest.raises(ValueError, match="causal=True needs causal mixers, but 'spectral' sees the whole"):
        FFTNet(FFTNetConfig(vocab_size=3, mixers=("causal_spectral", "spectral")))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_model", 0, "d_model must be at least 1"),
        ("num_heads", 3, "num_heads=3 must divide d_model=128"),
        ("mixer_configs", {"causal_spectral": {"num_bins": 0}}, "num_bins must be at least 1, got 0"),
        ("mixer_configs", {"causal_spectral": {"conv_size": -1}}, "conv_size must be 0 or more, got -1"),
        ("mixer_configs", {"causal_spectral": {"mlp_hidden_dim": 0}}, "mlp_hidden_dim must be at least 1 or"),
        (
            "mixer_configs",
            {"causal_spectral": {"taps": 4}},
            "'causal_spectral' has no field 'taps'; choose from num_bins",
        ),
        (
            "mixer_configs",
            {"mamba": {}},
            "unknown mixer 'mamba'; choose from addressed_spectral, causal_spectral",
        ),
        (
            "mixer_configs",
            {"causal_spectral": SpectralConfig()},
            "takes a CausalSpectralConfig, got SpectralConfig",
        ),
        (
            "mixer_configs",
            {"spectral": {"num_anchors": 5}},
            "sets fields of 'spectral', but the layers use addressed",
        ),
        ("mixers", ("mamba",), "unknown mixer 'mamba'"),
        ("vocab_size", 0, "vocab_size must be at least 1"),
        ("max_seq_length", 0, "max_seq_length must be at least 1"),
        ("dropout", 1.0, r"dropout must lie in \[0, 1\)"),
        ("ffn_dim", -1, "ffn_dim must be 0 or more"),
        ("num_layers", 0, "num_layers must be at least 1"),
    ],
)
def test_bad_sizes_end_in_a_sentence(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FFTNetConfig(**({"vocab_size": 3} | {field: value}))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", MIXERS)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    model = make(causal=name in CAUSAL, mixers=(name,)).float()
    model.save_pretrained(tmp_path)
    loaded = FFTNet.from_pretrained(tmp_path)
    assert loaded.config == model.config
    torch.testing.assert_close(loaded(tokens(2, 9)), model(tokens(2, 9)), rtol=0, atol=0)


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        FFTNet.from_pretrained(tmp_path)
    make().float().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"d_model": 8', '"d_model": 16'))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        FFTNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"d_model"', '"width"'))
    with pytest.raises(CheckpointError, match="does not know: width"):
        FFTNet.from_pretrained(tmp_path)
    for old, new, message in (
        ('"fftnet"', '"mamba"', r"config\.json is that of a model of type 'mamba', not 'fftnet'"),
        (
            '"FFTNetForCausalLM"\n',
            '"Other"\n',
            r"is that of \['Other'\], not of FFTNet: load it with that class",
        ),
        ('"num_bins"', '"taps"', "does not describe a model: mixer 'addressed_spectral' has no field 'taps'"),
        ('"d_model": 8', '"d_model": "8"', "does not describe a model"),
        ('"vocab_size": 11', '"max_seq_length": 4', "does not describe a model: .*vocab_size"),
    ):
        assert old in text
        (tmp_path / "config.json").write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=message):
            FFTNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 11, "mixer_configs": []}')
    with pytest.raises(CheckpointError, match=r"mixer_configs must be a dictionary, got"):
        FFTNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="does not describe a model: it holds no fields"):
        FFTNet.from_pretrained(tmp_path)


def test_the_configuration_file_names_the_model_and_its_fields(tmp_path: Path) -> None:
    model = make(mixers=("causal_spectral", "attention"), causal_spectral={"num_bins": 3}).float()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["model_type"], values["architectures"]) == ("fftnet", ["FFTNetForCausalLM"])
    own = {"num_bins": 3, "mlp_hidden_dim": None, "conv_size": 4, "input_gate": True}
    assert values["mixer_configs"] == {"causal_spectral": own, "attention": {}}
    fields = {name: value for name, value in values.items() if name not in LIBRARY_FIELDS}
    assert FFTNetConfig(**fields) == model.config
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert FFTNet.from_pretrained(tmp_path).config == model.config


def test_names_of_parameters_are_the_checkpoints_format() -> None:
    names = {name.split("mixer.")[-1] for name in make(num_layers=1).state_dict()}
    assert names == {
        "embedding.weight",
        "backbone.norm.weight",
        "backbone.layers.0.mixer_norm.weight",
        *(
            f"backbone.layers.0.feed_forward.{n}"
            for n in ("norm.weight", "expand.weight", "expand.bias", "contract.weight", "contract.bias")
        ),
        *(f"project_{n}.weight" for n in ("in", "context", "filter", "gate", "out")),
        *("conv_weight", "key.base_key", "activation.bias", "clock.weight", "clock.bias", "norm_weight"),
        *("transform.log_decay", "transform.frequency"),
        *(f"filter.{n}" for n in ("base_filter", "modulation.0.weight", "modulation.0.bias")),
        *("filter.modulation.2.weight", "filter.modulation.2.bias"),
    }


def test_a_configuration_takes_dictionaries_and_ignores_defaults_of_idle_mixers() -> None:
    config = FFTNetConfig(vocab_size=3, mixer_configs={"addressed_spectral": {"num_bins": 2}, "spectral": {}})
    assert config.mixer_configs == {"addressed_spectral": AddressedSpectralConfig(num_bins=2)}
    assert FFTNetConfig(vocab_size=3).mixer_configs == {"addressed_spectral": AddressedSpectralConfig()}
    assert replace(config, d_model=64).mixer_configs == config.mixer_configs
    backbone = BackboneConfig(mixer_configs={"addressed_spectral": {"num_bins": 2}})
    assert FFTNetConfig(**vars(backbone), vocab_size=3) == config


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch
from fftnet import FFTNet, FFTNetConfig

for causal in (True, False):
    model = FFTNet(FFTNetConfig(vocab_size=11, d_model=16, num_heads=2, num_layers=1, causal=causal))
    text = torch.arange(9)[None]
    model(text).sum().backward()
    if causal:
        with torch.no_grad():
            logits, state = model.prefill(text[:, :8])
            logits, _ = model.step(text[:, 8], state)
            torch.testing.assert_close(logits, model(text)[:, -1])
assert "fftnet.ops.causal_mix.cpu" not in sys.modules
"""


def test_everything_works_without_numba() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_NUMBA], check=True, timeout=120)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_are_those_that_were_asked_for(count: int) -> None:
    model = make(d_model=64)
    text = tokens(4, 300)
    before = torch.get_num_threads()
    expected = model(text)
    torch.set_num_threads(count)
    try:
        torch.testing.assert_close(model(text), expected, rtol=1e-9, atol=1e-9)
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
