"""One folder for both sides: whichever wrote it, the other computes the same bits."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from commands import python
from hf_models import both
from models import CAUSAL, ENCODERS, MODELS, VOCAB, tokens

import fftnet.hf
from fftnet import FFTNet, FFTNetConfig, load_tokenizer
from fftnet.hf.configuration import FFTNetConfig as LibraryConfig
from fftnet.model.exchange import LANGUAGE, LIBRARY_FIELDS, SHIM_FILE
from fftnet.model.mixers import MIXERS
from fftnet.serialization import CheckpointError, write_tensors

ALL = pytest.mark.parametrize("fields", [*MODELS, *ENCODERS], ids=str)


@torch.no_grad()
def logits(model: Any, *inputs: Any) -> torch.Tensor:
    return model(*inputs) if isinstance(model, FFTNet) else model(*inputs, use_cache=False).logits


@ALL
@torch.no_grad()
def test_the_library_reads_what_the_native_model_wrote_and_back(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    native, model = both(tmp_path / "native", torch.float32, **fields)
    text = tokens(2, 9)
    mask = torch.arange(9) >= torch.tensor([[4], [0]])
    assert torch.equal(logits(model, text), logits(native, text))
    assert torch.equal(logits(model, text, mask.long())[mask], logits(native, text, mask)[mask])
    if native.config.causal:
        assert torch.equal(model(text).logits, native.prefill(text)[0])
        assert torch.equal(model(text, mask).logits[mask], native.prefill(text, attention_mask=mask)[0][mask])
    model.save_pretrained(tmp_path / "library")
    again = FFTNet.from_pretrained(tmp_path / "library")
    assert again.config == native.config
    assert torch.equal(logits(again, text), logits(native, text))
    assert (tmp_path / "library" / SHIM_FILE).read_bytes() == (tmp_path / "native" / SHIM_FILE).read_bytes()


@torch.no_grad()
def test_the_native_model_reads_shards_of_the_library(tmp_path: Path) -> None:
    native, model = both(tmp_path / "native", torch.float32)
    model.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    again = FFTNet.from_pretrained(tmp_path / "shards")
    assert torch.equal(logits(again, tokens(2, 9)), logits(native, tokens(2, 9)))
    other = fftnet.hf.FFTNetForCausalLM.from_pretrained(tmp_path / "shards").eval()
    assert torch.equal(logits(other, tokens(2, 9)), logits(native, tokens(2, 9)))


def test_a_folder_of_the_base_model_and_heads_on_a_language_model(tmp_path: Path) -> None:
    native, _ = both(tmp_path, torch.float32)
    base = transformers.AutoModel.from_pretrained(tmp_path).eval()
    base.save_pretrained(tmp_path / "base")
    again = FFTNet.from_pretrained(tmp_path / "base")
    assert torch.equal(logits(again, tokens(2, 9)), logits(native, tokens(2, 9)))
    for auto in ("AutoModelForSequenceClassification", "AutoModelForTokenClassification"):
        model, info = getattr(transformers, auto).from_pretrained(
            tmp_path, num_labels=3, output_loading_info=True
        )
        assert {key.split(".")[0] for key in info["missing_keys"]} == {"score"}
        assert not info["unexpected_keys"]
        assert torch.equal(model.model.embedding.weight, native.embedding.weight)
        model.save_pretrained(tmp_path / auto)
        with pytest.raises(CheckpointError, match=r"is that of \['FFTNetFor\w+'\], not of FFTNet: load it"):
            FFTNet.from_pretrained(tmp_path / auto)


def test_the_configurations_have_the_same_fields_and_defaults() -> None:
    library = LibraryConfig()
    for field in fields(FFTNetConfig):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is not MISSING and field.name != "mixer_configs":
            given = getattr(library, field.name)
            assert (tuple(given) if field.name == "mixers" else given) == default
    assert library.native() == FFTNetConfig(vocab_size=257)
    assert (library.hidden_size, library.num_hidden_layers, library.num_attention_heads) == (128, 4, 2)
    assert not hasattr(library, "max_position_embeddings")


@pytest.mark.parametrize("auto", [name for name in LANGUAGE.auto_classes if name != "AutoConfig"])
def test_native_code_knows_every_field_that_the_library_writes(auto: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"num_labels": 5}
    values |= {"vocab_size": VOCAB, "d_model": 8, "num_layers": 1, "causal": "Masked" not in auto}
    values |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [2, 3]}
    values |= {"output_hidden_states": True, "problem_type": "multi_label_classification"}
    config = LibraryConfig(**values)
    model = getattr(transformers, auto).from_config(config)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    native = {field.name for field in fields(FFTNetConfig)}
    assert set(written) <= native | LIBRARY_FIELDS
    assert native <= set(written)
    assert written["auto_map"] == LANGUAGE.auto_map
    assert written["architectures"] == [type(model).__name__] == [LANGUAGE.auto_classes[auto]]
    assert getattr(fftnet.hf, LANGUAGE.auto_classes[auto]) is type(model)


TRUSTING = """
import sys, torch, transformers
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer("ab").input_ids == [97, 98]
    model.save_pretrained(folder + "/again")
    print(model(torch.tensor([[1, 2, 3]]), use_cache=False).logits.tolist())
"""


def test_a_process_that_never_imported_us_loads_a_folder_of_either_side(tmp_path: Path) -> None:
    native, model = both(tmp_path / "native", torch.float32, vocab_size=257)
    model.save_pretrained(tmp_path / "library")
    folders = [tmp_path / "native", tmp_path / "library"]
    for folder in folders:
        load_tokenizer("bytes").save(folder)
    offline = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = python("-c", TRUSTING, *folders, environment=offline)
    expected = logits(native, torch.tensor([[1, 2, 3]]))
    for line in done.stdout.splitlines()[-2:]:
        torch.testing.assert_close(torch.tensor(json.loads(line)), expected, rtol=1e-5, atol=1e-5)
    for folder in folders:
        assert [path.name for path in (folder / "again").glob("*.py")] == [SHIM_FILE]


def test_weights_that_a_folder_lacks_are_initialized_as_natively(tmp_path: Path) -> None:
    for name in MIXERS:
        native, _ = both(tmp_path, mixers=(name,), causal=name in CAUSAL)
        config = LibraryConfig.from_pretrained(tmp_path, num_layers=3)
        model = transformers.AutoModel.from_pretrained(tmp_path, config=config)
        for key, value in native.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
        fresh = model.backbone.layers[2]
        assert all(torch.isfinite(parameter).all() for parameter in fresh.parameters())
        if name == "addressed_spectral":
            mixer = fresh.mixer
            planes = mixer.project_in.weight[8:].view(2, 2, -1, 8)
            matched = torch.stack([planes[:, 0], -planes[:, 1]], dim=1).reshape(-1, 8)
            assert torch.equal(mixer.project_filter.weight, matched)
            assert (mixer.norm_weight == 1).all()


def test_one_missing_weight_leaves_the_others_of_its_mixer_unchanged(tmp_path: Path) -> None:
    native, _ = both(tmp_path)
    weights = native.state_dict()
    lacking = "backbone.layers.0.mixer.norm_weight"
    write_tensors(tmp_path / "model.safetensors", {key: weights[key] for key in weights if key != lacking})
    model, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {lacking}
    for key, value in model.state_dict().items():
        assert torch.equal(value, torch.ones_like(value) if key == lacking else weights[key]), key


def test_a_model_is_loaded_in_half_the_precision(tmp_path: Path) -> None:
    native, _ = both(tmp_path)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    difference = (logits(model, tokens(2, 9)).double() - logits(native, tokens(2, 9))).abs().max()
    assert 0 < difference < 0.5
    assert model.generate(tokens(2, 5), max_new_tokens=3, pad_token_id=0).shape == (2, 8)
