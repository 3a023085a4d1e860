"""A trained image classifier asked from Python: what it reads, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from pictures import pictures, write_folder
from PIL import Image

import fftnet
from fftnet.data.errors import DataError
from fftnet.data.images.processor import ImageProcessor
from fftnet.model.vit import FFTNetViT, vit_config
from fftnet.serialization import CheckpointError


def saved(folder: Path, channels: int = 3) -> FFTNetViT:
    config = vit_config("tiny", num_classes=3, image_size=8, patch_size=4, num_channels=channels)
    model = randomise(FFTNetViT(config), 0.05).float()
    model.save_pretrained(folder)
    ImageProcessor(8, (0.4,) * channels, (0.2,) * channels).save(folder)
    return model


@torch.no_grad()
def test_arrays_of_any_size_and_colours_are_read_as_the_model_was_trained(tmp_path: Path) -> None:
    model = saved(tmp_path)
    images, _ = pictures(4)
    grey = images[0, :, :, 0]
    large = np.asarray(Image.fromarray(images[1]).resize((21, 13)))
    classifier = fftnet.load_classifier(tmp_path, device="cpu")
    found = classifier.predict([grey, images[2], large], batch_size=2)
    seen = [
        np.repeat(grey[..., None], 3, axis=-1),
        images[2],
        np.asarray(Image.fromarray(large).resize((8, 8), Image.Resampling.BILINEAR)),
    ]
    pixels = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, model((pixels - 0.4) / 0.2).softmax(dim=1))
    assert classifier.class_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert torch.equal(
        classifier.predict(list(images), batch_size=1).argmax(1), classifier.predict(list(images)).argmax(1)
    )


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    classifier = fftnet.load_classifier(tmp_path, device="cpu")
    images, _ = pictures(2)
    with pytest.raises(DataError, match=r"input 2: images must be uint8 of shape .* got float64"):
        classifier.predict([images[0], images[1] / 255])
    with pytest.raises(DataError, match="input 1: images must be uint8"):
        classifier.predict([images])
    with pytest.raises(DataError, match="is not known what this model was trained on"):
        fftnet.prediction.evaluate_classifier(classifier)
    assert classifier.predict([]).shape == (0, 3)


def test_a_processor_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    ImageProcessor(9, (0.4,) * 3, (0.2,) * 3).save(tmp_path)
    with pytest.raises(CheckpointError, match="its images have 8 pixels a side and 3 channels; put back"):
        fftnet.load_classifier(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json is missing"):
        fftnet.load_classifier(tmp_path)


def test_colours_are_grey_to_a_grey_model(tmp_path: Path) -> None:
    saved(tmp_path / "model", channels=1)
    folder = write_folder(tmp_path / "data", 4)
    classifier = fftnet.load_classifier(tmp_path / "model", device="cpu")
    names, places = classifier.reader.read(str(folder), classifier.data)
    grey = [np.asarray(Image.open(name).convert("L")) for name in names]
    assert torch.equal(classifier.predict(places), classifier.predict(grey))
