"""A checkpoint of image classification in Transformers: its processor and model give the native logits."""

from pathlib import Path

import pytest
import torch
from conftest import randomise
from pictures import pictures
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

import fftnet.hf
from fftnet.data.images.pixels import lazy_rows
from fftnet.data.images.processor import ImageProcessor, measured
from fftnet.model.vit import FFTNetViT, vit_config


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
