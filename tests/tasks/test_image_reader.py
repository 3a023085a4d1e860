"""Prediction of a trained image classifier from Python: inputs that it reads, and inputs that it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from pictures import pictures, write_folder
from PIL import Image

import fftnet
from fftnet.api.predict import Classifier, evaluate_classifier
from fftnet.data.errors import DataError
from fftnet.data.images.processor import ImageProcessor
from fftnet.model.vit import FFTNetViT, vit_config
from fftnet.serialization import CheckpointError

IMAGE = pictures(1)[0][0]


def saved(folder: Path, channels: int = 3) -> FFTNetViT:
    config = vit_config("tiny", num_classes=3, image_size=8, patch_size=4, num_channels=channels)
    model = randomise(FFTNetViT(config), 0.05).float()
    model.save_pretrained(folder)
    ImageProcessor(8, (0.4,) * channels, (0.2,) * channels).save(folder)
    return model


def loaded(folder: Path) -> Classifier:
    return fftnet.load_classifier(folder, device="cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = tmp_path_factory.mktemp("model")
    saved(folder)
    return loaded(folder)


@torch.no_grad()
def test_arrays_of_any_size_and_colours_are_read_as_the_model_was_trained(tmp_path: Path) -> None:
    model = saved(tmp_path)
    images, _ = pictures(4)
    grey = images[0, :, :, 0]
    large = np.asarray(Image.fromarray(images[1]).resize((21, 13)))
    classifier = loaded(tmp_path)
    found = classifier.predict([grey, images[2], large], batch_size=2)
    seen = [
        np.repeat(grey[..., None], 3, axis=-1),
        images[2],
        np.asarray(Image.fromarray(large).resize((8, 8), Image.Resampling.BILINEAR)),
    ]
    pixels = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, model((pixels - 0.4) / 0.2).softmax(dim=1))
    assert re.fullmatch(
        r"Classifier\(FFTNetViT, 3 classes: LABEL_0, LABEL_1, LABEL_2; [\d,]+ parameters\)", repr(classifier)
    )


def test_a_single_image_is_one_input_and_never_its_rows(classifier: Classifier) -> None:
    images, _ = pictures(5)
    grey = np.ascontiguousarray(images[..., 0])
    opaque = np.dstack([images[0], np.full((8, 8), 255, np.uint8)])
    colours, of_grey = classifier.predict(list(images)), classifier.predict(list(grey))
    for one in (images[0], torch.from_numpy(images[0]), Image.fromarray(images[0]), opaque):
        torch.testing.assert_close(classifier.predict(one), colours[:1])
    for one in (grey[0], torch.from_numpy(grey[0]), Image.fromarray(grey[0]), grey[:1], grey[0][..., None]):
        torch.testing.assert_close(classifier.predict(one), of_grey[:1])
    for several, expected in ((images, colours), (grey, of_grey), (grey[..., None], of_grey)):
        torch.testing.assert_close(classifier.predict(several), expected)
        torch.testing.assert_close(classifier.predict(torch.from_numpy(several)), expected)
        torch.testing.assert_close(classifier.predict(iter(several)), expected)


def test_images_of_pillow_are_read_as_files_are(classifier: Classifier, tmp_path: Path) -> None:
    image = Image.fromarray(pictures(1)[0][0])
    turned = Image.Exif()
    turned[0x112] = 6
    image.save(tmp_path / "turned.png", exif=turned)
    for mode in ("P", "1", "I", "LA", "CMYK"):
        image.convert(mode).save(tmp_path / f"{mode}.tif")
    for path in (tmp_path / "turned.png", *tmp_path.glob("*.tif")):
        _, places, _ = classifier.reader.read(str(path), classifier.data)
        with Image.open(path) as opened:
            assert torch.equal(classifier.predict(opened), classifier.predict(places)), path.name
    whole = (tmp_path / "turned.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-60])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(DataError, match="input 1 can't be read"):
        classifier.predict([opened])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\) may be one image with the channels first or 3 grey"),
        (torch.zeros(4, 9, 9), r"\(4, 9, 9\) may be one image with the channels first or 4 grey images"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"input 1: .* shape \(3, 8, 8\): put the channels last"),
        (np.zeros((8, 8, 3), np.float32), r"input 1: .* got float32 of shape \(8, 8, 3\): convert pixels to"),
        (torch.full((8, 8), float("nan"), dtype=torch.bfloat16), r"got bfloat16 of shape \(8, 8\): convert"),
        ([np.zeros((8, 8), np.int64)], r"got int64 of shape \(8, 8\): convert pixels to integers from 0"),
        (np.zeros((0, 8, 3), np.uint8), r"input 1: images must be .* got uint8 of shape \(0, 8, 3\)"),
        (np.zeros(8, np.uint8), r"input 1: images must be .* got uint8 of shape \(\)"),
        (np.uint8(3), "inputs must be one input or a list of inputs, got uint8"),
        ("photo.png", "input 1 must be a uint8 array or tensor or an image of Pillow, got str"),
        (Path("photo.png"), "input 1 must be a uint8 array or tensor or an image of Pillow, got .*Path"),
        ([[1, 2], [3, 4]], "input 1 must be a uint8 array or tensor or an image of Pillow, got list"),
        ([np.zeros((8, 8), np.uint8), None], "input 2 must be a uint8 array .*, got NoneType"),
        (5, "inputs must be one input or a list of inputs, got int"),
        (None, "inputs must be one input or a list of inputs, got NoneType"),
        ({"a": np.zeros((8, 8), np.uint8)}, "inputs must be one input or a list of inputs, got dict"),
        ([IMAGE, IMAGE / 255], r"input 2: images must be uint8 of shape .* got float64"),
        ([np.stack([IMAGE])], "input 1: images must be uint8"),
    ],
)
def test_inputs_that_are_no_image_or_could_be_several_are_refused(
    given: object, sentence: str, classifier: Classifier
) -> None:
    with pytest.raises(DataError, match=sentence):
        classifier.predict(given)


def test_a_damaged_processor_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    whole = json.loads(path.read_text())
    nan, inf = float("nan"), float("inf")
    sides = ("8", "8"), (-8, -8), (8.0, 8.0)
    sizes = [{"height": 8}, [8, 8], *({"height": height, "width": width} for height, width in sides)]
    means = [["a", "b", "c"], "abc", 0.5, [0.4, nan, 0.4], [10**400, 0.4, 0.4]]
    deviations = [[0.2, inf, 0.2], [0.2, 1e-300, 0.2], [[0.2], [0.2], [0.2]], []]
    values = {"size": sizes, "image_mean": means, "image_std": deviations, "do_rescale": [False]}
    damaged = [json.dumps(whole | {name: value}) for name in values for value in values[name]]
    for text in (*damaged, "[" * 100_000, "[1]", "3", "{}", "", "{"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"preprocessor_config.json is "):
            loaded(tmp_path)


def test_without_inputs_data_or_intact_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    classifier = loaded(tmp_path)
    assert classifier.predict([]).shape == (0, 3)
    with pytest.raises(DataError, match="is not known what this model was trained on"):
        evaluate_classifier(classifier)
    with torch.no_grad():
        next(classifier.model.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="the probabilities are not finite: the weights are damaged"):
        classifier.predict(IMAGE)


def test_a_processor_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    ImageProcessor(9, (0.4,) * 3, (0.2,) * 3).save(tmp_path)
    with pytest.raises(CheckpointError, match="its images have 8 pixels a side and 3 channels; put back"):
        loaded(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json is missing"):
        loaded(tmp_path)


def test_colours_are_grey_to_a_grey_model(tmp_path: Path) -> None:
    saved(tmp_path / "model", channels=1)
    folder = write_folder(tmp_path / "data", 4)
    classifier = loaded(tmp_path / "model")
    names, places, _ = classifier.reader.read(str(folder), classifier.data)
    grey = [np.asarray(Image.open(name).convert("L")) for name in names]
    assert torch.equal(classifier.predict(places), classifier.predict(grey))
