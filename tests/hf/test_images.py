"""The image model and its processor on both sides of a folder, the head and its labels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomise
from pictures import pictures
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
)

import fftnet.hf
import fftnet.hf as hf
from fftnet.data.images.pixels import lazy_rows
from fftnet.data.images.processor import ImageProcessor, measured
from fftnet.model import FFTNetViT, vit_config
from fftnet.model.exchange import IMAGES, SHIM_FILE

IMAGE: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_channels": 1}


def native(**fields: object) -> FFTNetViT:
    config = replace(vit_config("tiny", num_classes=3, **IMAGE), num_layers=2, **fields)  # pyright: ignore
    return randomise(FFTNetViT(config), 0.1).float()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
@torch.no_grad()
def test_the_library_reads_what_the_native_model_wrote_and_back(pooling: str, tmp_path: Path) -> None:
    model = native(pooling=pooling)
    model.save_pretrained(tmp_path / "native")
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "native").eval()
    assert type(theirs) is hf.FFTNetForImageClassification
    assert theirs.config.num_labels == theirs.config.num_classes == 3
    assert torch.equal(theirs(images()).logits, model(images()))
    theirs.save_pretrained(tmp_path / "library")
    again = FFTNetViT.from_pretrained(tmp_path / "library")
    assert again.config == model.config
    assert torch.equal(again(images()), model(images()))
    for folder in ("native", "library"):
        written = json.loads((tmp_path / folder / "config.json").read_text())
        assert written["model_type"] == "fftnet_vit"
        assert written["architectures"] == ["FFTNetForImageClassification"]
        assert written["auto_map"] == IMAGES.auto_map
        assert "FFTNetForImageClassification" in (tmp_path / folder / SHIM_FILE).read_text()


def test_other_labels_are_another_head_on_the_same_backbone(tmp_path: Path) -> None:
    model = native()
    model.save_pretrained(tmp_path)
    labels = {0: "cat", 1: "dog"}
    theirs, info = AutoModelForImageClassification.from_pretrained(
        tmp_path, id2label=labels, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert theirs.head.out_features == 2
    assert theirs.config.id2label == labels
    assert not info["missing_keys"]
    assert torch.equal(theirs.patches.project.weight, model.patches.project.weight)
    theirs.save_pretrained(tmp_path / "two")
    assert FFTNetViT.from_pretrained(tmp_path / "two").config.num_classes == 2
    assert AutoConfig.from_pretrained(tmp_path / "two").id2label == labels


def test_the_trainer_trains_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = torch.arange(16) % 2
    shifted = images(16) + 2.0 * labels[:, None, None, None]
    rows = [{"pixel_values": shifted[n], "labels": labels[n]} for n in range(16)]
    config = hf.FFTNetViTConfig(**IMAGE, d_model=16, num_heads=2, num_layers=1, num_classes=2)
    model = hf.FFTNetForImageClassification(config)
    settings: dict[str, Any] = {"max_steps": 20, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
    settings |= {"report_to": [], "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
    arguments = TrainingArguments(output_dir=str(tmp_path), disable_tqdm=True, **settings)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)  # pyright: ignore
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.3 < losses[0]


def test_hidden_states_loss_and_error_messages() -> None:
    model = hf.FFTNetForImageClassification(
        hf.FFTNetViTConfig(**IMAGE, d_model=16, num_heads=2, num_layers=2, num_classes=3)
    ).eval()
    labels = torch.tensor([2, 0])
    found = model(images(), labels=labels, output_hidden_states=True)
    assert [tuple(x.shape) for x in found.hidden_states] == [(2, 17, 16)] * 3
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits, labels))
    with pytest.raises(ValueError, match="pixel_values"):
        model()
    with pytest.raises(ValueError, match="images must be of shape"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="is that of a model of type 'fftnet', not 'fftnet_vit'"):
        hf.FFTNetViTConfig.from_dict({"model_type": "fftnet"})


def saved(folder: Path, channels: int, size: int) -> tuple[FFTNetViT, ImageProcessor]:
    images, _ = pictures(20, 10, channels)
    processor = measured(lazy_rows(images, "images"), size, channels)
    config = vit_config("tiny", num_classes=3, image_size=size, patch_size=2, num_channels=channels)
    model = randomise(FFTNetViT(config), 0.05).float()
    model.save_pretrained(folder)
    processor.save(folder)
    return model, processor


@pytest.mark.parametrize("size", [10, 8])
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_the_library_gives_the_native_logits(channels: int, size: int, tmp_path: Path) -> None:
    model, processor = saved(tmp_path, channels, size)
    images, _ = pictures(4, 10, channels, seed=1)
    native = model(processor.normalised(processor.read(lazy_rows(images, "images"))))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(theirs).__name__.startswith("ViTImageProcessor")
    shown = [Image.fromarray(image[..., 0] if channels == 1 else image) for image in images]
    inputs = theirs(shown, return_tensors="pt")
    assert inputs["pixel_values"].shape == (4, channels, size, size)
    logits = AutoModelForImageClassification.from_pretrained(tmp_path)(**inputs).logits
    torch.testing.assert_close(logits, native)
    assert native.std() > 0.01


@torch.no_grad()
def test_grey_and_translucent_images_for_a_model_of_colours(tmp_path: Path) -> None:
    model, processor = saved(tmp_path, 3, 10)
    assert isinstance(model, FFTNetViT)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    for channels in (1, 4):
        images, _ = pictures(2, 10, channels, seed=2)
        stored = images[..., 0] if channels == 1 else images
        native = processor.normalised(processor.read(lazy_rows(stored, "images")))
        got = theirs([Image.fromarray(image) for image in stored], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(got, native)


def test_what_the_library_can_not_do_is_as_the_page_says(tmp_path: Path) -> None:
    saved(tmp_path, 1, 10)
    colours = Image.fromarray(pictures(1, 10, 3)[0][0])
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mean must have 3 elements"):
        theirs(colours, return_tensors="pt")
    assert theirs(colours.convert("L"), return_tensors="pt")["pixel_values"].shape == (1, 1, 10, 10)
    assert fftnet.hf.FFTNetForImageClassification.from_pretrained(tmp_path).config.num_channels == 1
