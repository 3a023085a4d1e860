"""Image classification: the model that the settings make, its data and its objective."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import pictures, write_folder

from fftnet import TaskConfig
from fftnet.data.images.processor import ImageProcessor
from fftnet.model.config import BackboneConfig
from fftnet.model.vit import FFTNetViT, vit_config
from fftnet.tasks.base import Prepared, Request
from fftnet.tasks.image_classification import ImageClassification, ImageClassificationConfig
from fftnet.utils.dataset import DataConfig

SIZES: dict[str, Any] = {"d_model": 16, "num_heads": 2, "num_layers": 1, "causal": False}


def prepared(
    path: Path, model: dict[str, Any] = SIZES, data: dict[str, Any] | None = None, **settings: Any
) -> Prepared:
    chosen: dict[str, Any] = {"patch_size": 4} | settings
    request = Request(
        model=BackboneConfig(**model),
        data=DataConfig(data=[str(path)], **(data or {})),
        settings=ImageClassificationConfig(**chosen),
    )
    return ImageClassification.prepare(request)


def config_of(found: Prepared) -> Any:
    return found.build_model().config


@pytest.mark.parametrize("channels", [1, 3])
def test_the_model_has_the_images_form_and_the_folders_classes(channels: int, tmp_path: Path) -> None:
    for split, count in (("train", 16), ("valid", 4), ("test", 4)):
        write_folder(tmp_path / split, count, channels=channels)
    found = prepared(tmp_path)
    found.save_files(tmp_path)
    assert ImageProcessor.load(tmp_path).channels == channels
    model = found.build_model()
    assert isinstance(model, FFTNetViT)
    config = model.config
    assert (config.image_size, config.patch_size, config.num_channels) == (8, 4, channels)
    assert (config.class_names, config.causal, config.max_seq_length) == (("below", "left"), False, 5)
    assert (found.tokenizer, found.measure_test) == (None, True)
    batch = found.splits.train.batch(0, 0)
    assert batch.inputs.shape == (16, channels, 8, 8)
    losses = found.objective(model, batch)
    expected = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets, reduction="sum")
    torch.testing.assert_close(losses.loss, expected)
    assert losses.counts is not None
    assert losses.counts.sum(dim=1)[1:].tolist() == [16, 16]


def test_a_preset_is_the_papers_model(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    found = config_of(prepared(tmp_path, {"causal": False}, preset="tiny"))
    wanted = vit_config("tiny", num_classes=2, image_size=8, patch_size=4)
    assert asdict(found) == asdict(replace(wanted, class_names=("below", "left"), max_seq_length=5))
    other = config_of(
        prepared(tmp_path, {"causal": False, "mixers": ("fnet",)}, preset="tiny", pooling="mean")
    )
    assert (other.d_model, other.mixers, other.num_tokens) == (64, ("fnet",), 4)


def test_images_are_stretched_to_the_size_that_is_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 20, channels=1)
    write_folder(tmp_path / "test", 6)
    found = prepared(tmp_path, image_size=12)
    assert found.splits.test.batch(0, 0).inputs.shape == (6, 1, 12, 12)
    assert config_of(found).class_names == ("below", "left")


def test_rare_classes_weigh_more_and_labels_are_smoothed(tmp_path: Path) -> None:
    images, labels = pictures(40)
    keep = np.flatnonzero((labels == 0) | (np.arange(40) < 12))
    np.savez(tmp_path / "a.npz", x=images[keep], y=labels[keep])
    plain = prepared(tmp_path / "a.npz")
    weighed = prepared(tmp_path / "a.npz", class_weights="balanced", label_smoothing=0.2)
    model = plain.build_model()
    batches = [plain.splits.train.batch(0, index) for index in range(plain.splits.train.num_batches)]
    every = torch.cat([batch.targets for batch in batches])
    rows = every.bincount()
    assert rows[0] > 2 * rows[1]
    batch = batches[0]
    smooth = 0.8 * torch.eye(2)[batch.targets] + 0.1
    nats = -(smooth * (len(every) / (2 * rows)) * model(batch.inputs).log_softmax(dim=1)).sum()
    torch.testing.assert_close(weighed.objective(model, batch).loss, nats)


def test_mixed_images_are_trained_on_and_measured_on_none(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    found = prepared(tmp_path, augmentation=("mixup", "flip"))
    batch = found.splits.train.batch(0, 0)
    assert batch.targets.shape == (16, 2)
    assert batch.targets.dtype == torch.float32
    found.objective(found.build_model(), batch).loss.backward()
    for split in (found.splits.valid, found.splits.test):
        assert split.batch(0, 0).targets.dtype == torch.int64


def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    with pytest.raises(ValueError, match="patch_size=3 must divide image_size=8"):
        prepared(tmp_path, patch_size=3)
    with pytest.raises(ValueError, match="num_layers is that of preset tiny: leave out one of the two"):
        prepared(tmp_path, preset="tiny")
    for name, value in (("tokenizer", "bpe"), ("text_field", "x"), ("carry_state", 2), ("num_samples", 5)):
        with pytest.raises(ValueError, match=f"{name} is a setting of text: image_classification has no use"):
            prepared(tmp_path, data={name: value})
    with pytest.raises(ValueError, match="max_seq_length is a setting of text"):
        prepared(tmp_path, SIZES | {"max_seq_length": 99})
    assert config_of(prepared(tmp_path, SIZES | {"causal": True}, pooling="mean")).causal
    with pytest.raises(ValueError, match="sees no patch: pooling='mean' or causal=False"):
        prepared(tmp_path, SIZES | {"causal": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "giant"}, "unknown preset 'giant'; choose from tiny, small, base"),
        ({"class_weights": "some"}, "unknown class_weights 'some'; choose from none, balanced"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"augmentation": ("twist",)}, "unknown augmentation 'twist'"),
        ({"mixup_alpha": -1.0}, "mixup_alpha must be above 0"),
        ({"pooling": "max"}, "unknown pooling 'max'; choose from class_token, mean"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskConfig(task="image_classification", settings=ImageClassificationConfig(**settings))
