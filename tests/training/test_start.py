"""Runs that start from a checkpoint: loaded weights, random weights, and refused checkpoints."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from conftest import randomise

from fftnet.api.start import flag_defaults, load_start
from fftnet.cli.main import main
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.pretrained import PretrainedModel
from fftnet.model.vit import FFTNetViT, ViTConfig
from fftnet.serialization import CheckpointError, read_tensors
from fftnet.utils.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("bytes")
SIZES = FFTNetConfig(
    vocab_size=TOKENIZER.vocab_size,
    d_model=16,
    num_heads=4,
    num_layers=2,
    max_seq_length=40,
    dropout=0.25,
    mixer_configs={"addressed_spectral": {"num_bins": 3}},
)
MASKED = replace(SIZES, vocab_size=SIZES.vocab_size + 1, causal=False, mixers=("spectral",), mixer_configs={})


def classes(sizes: FFTNetConfig, *names: str) -> SequenceClassifierConfig:
    values = {each.name: getattr(sizes, each.name) for each in fields(sizes)}
    values |= {"vocab_size": TOKENIZER.vocab_size, "num_classes": len(names), "class_names": names}
    return SequenceClassifierConfig(**values)


def saved(model: PretrainedModel, folder: Path) -> Path:
    randomise(model).float()
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return folder


def assert_taken(model: PretrainedModel, folder: Path, *anew: str) -> None:
    """All but some weights are those of the folder; what starts anew is as it was drawn."""
    stored = read_tensors(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored.get(name, torch.zeros(()))) != (name in anew), name


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    return saved(FFTNet(SIZES), tmp_path / "lm")


def test_a_classifier_starts_from_a_language_model(language_model: Path) -> None:
    model = FFTNetForSequenceClassification(classes(SIZES, "a", "b"))
    drawn = model.score.weight.clone()
    load_start(model, TOKENIZER, language_model)
    assert_taken(model, language_model, "score.weight")
    assert torch.equal(model.score.weight, drawn)


def test_the_embedding_of_the_mask_token_is_dropped_or_random(tmp_path: Path) -> None:
    folder = saved(FFTNet(MASKED), tmp_path / "masked")
    model = FFTNetForSequenceClassification(classes(MASKED, "a", "b"))
    load_start(model, TOKENIZER, folder)
    stored = read_tensors(folder / "model.safetensors")["embedding.weight"]
    assert torch.equal(model.embedding.weight, stored[:-1])
    assert_taken(model, folder, "score.weight", "embedding.weight")
    saved(model, tmp_path / "classifier")
    again = FFTNet(MASKED)
    drawn = again.embedding.weight.clone()
    load_start(again, TOKENIZER, tmp_path / "classifier")
    assert torch.equal(again.embedding.weight, torch.cat([model.embedding.weight, drawn[-1:]]))


def test_a_head_is_loaded_for_the_same_classes_only(tmp_path: Path) -> None:
    folder = saved(FFTNetForSequenceClassification(classes(SIZES, "a", "b")), tmp_path / "first")
    same, other = (FFTNetForSequenceClassification(classes(SIZES, *names)) for names in ("ab", "ac"))
    load_start(same, TOKENIZER, folder)
    assert_taken(same, folder)
    load_start(other, TOKENIZER, folder)
    assert_taken(other, folder, "score.weight")


def test_texts_keep_their_pooling(tmp_path: Path) -> None:
    config = replace(classes(SIZES, "a", "b"), pooling="last")
    folder = saved(FFTNetForSequenceClassification(config), tmp_path / "last")
    assert flag_defaults(folder)["classification.pooling"] == "last"


def test_images_keep_their_patches(tmp_path: Path) -> None:
    config = ViTConfig(d_model=16, num_heads=4, num_layers=1, image_size=8, patch_size=4, num_classes=2)
    FFTNetViT(config).save_pretrained(tmp_path / "vit")
    defaults = flag_defaults(tmp_path / "vit")
    assert defaults["image_classification.patch_size"] == 4
    assert "tokenizer" not in defaults
    model = FFTNetViT(replace(config, num_classes=3, class_names=()))
    load_start(model, None, tmp_path / "vit")
    assert_taken(model, tmp_path / "vit", "head.weight", "head.bias")


def test_other_sizes_and_tokenizers_are_refused(language_model: Path, tmp_path: Path) -> None:
    wide = FFTNetForSequenceClassification(classes(replace(SIZES, d_model=32), "a", "b"))
    with pytest.raises(CheckpointError, match=r"of shape .*16.*, not .*32.*: the checkpoint was made"):
        load_start(wide, TOKENIZER, language_model)
    model = FFTNetForSequenceClassification(classes(SIZES, "a", "b"))
    other = load_tokenizer("bpe", corpus=["one two " * 50], vocab_size=260)
    with pytest.raises(CheckpointError, match="another tokenizer: leave --tokenizer out"):
        load_start(model, other, language_model)
    with pytest.raises(CheckpointError, match="nowhere"):
        load_start(model, TOKENIZER, tmp_path / "nowhere")


def test_a_run_takes_sizes_and_tokenizer(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fields of the checkpoint are the flags' defaults; one that is given wins, and must fit."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{word} {number}", "label": word} for word in ("yes", "no") for number in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "train --task classification --data rows.jsonl --init_from lm --trackers none --no_progress"
    assert main([*words.split(), "--num_layers", "3"]) == 2
    assert "lm/model.safetensors lacks backbone.layers.2" in capsys.readouterr().err
    few = "--max_steps 1 --learning_rate 1e-9 --dropout 0 --save_model"
    assert main([*words.split(), *few.split()]) == 0
    best = Path("outputs/best")
    model = FFTNetForSequenceClassification.from_pretrained(best)
    assert model.config == replace(classes(SIZES, "no", "yes"), dropout=0.0)
    stored = read_tensors(language_model / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if name != "score.weight":
            torch.testing.assert_close(tensor, stored[name], rtol=0, atol=1e-6)
    assert json.loads((best / "run.json").read_text())["start"] == {"init_from": "lm"}
