"""Batches of images: pure functions of seed, epoch and index, in memory or read from files."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import pictures, write_folder

from fftnet.data.errors import MissingPackageError
from fftnet.data.images.augmentation import Augmentation, Examples, augmented, mixup
from fftnet.data.images.loading import ImageBatches, ImageData, load_images, load_test_images
from fftnet.data.images.pixels import lazy_rows, read_images
from fftnet.data.images.processor import ImageProcessor, measured
from fftnet.protocols import Batch
from fftnet.serialization import CheckpointError
from fftnet.tasks.image_classification import ImageClassificationConfig
from fftnet.utils.dataset import DataConfig

PLAIN = ("crop", "flip", "mixup")


def load(path: Path, in_memory_mb: float = 32.0, **named: object) -> ImageData:
    data = DataConfig(data=[str(path)], in_memory_mb=in_memory_mb, valid_fraction=0.2, test_fraction=0.1)
    return load_images(data, **named)  # pyright: ignore[reportArgumentType]


def changes(*names: str) -> list[Augmentation]:
    return ImageClassificationConfig(augmentation=names).augmentations(2)


def batches(read: ImageData, seed: int | None = 0, names: tuple[str, ...] = PLAIN) -> ImageBatches:
    return ImageBatches(read.train, read.processor, 5, seed, changes(*names))


def same(left: Batch, right: Batch) -> bool:
    return torch.equal(left.inputs, right.inputs) and torch.equal(left.targets, right.targets)


def test_the_training_images_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    write_folder(tmp_path, 40)
    found = load(tmp_path)
    train, valid, test = (len(images.labels) for images in found[:3])
    assert train + valid + test == 40
    assert min(train - 16, valid - 1, test - 1) > 0
    source = batches(found, None, ())
    inputs = torch.cat([source.batch(0, n).inputs for n in range(source.num_batches)])
    assert inputs.shape == (train, 3, 8, 8)
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(dim=(0, 2, 3), correction=0), torch.ones(3))
    constant = lazy_rows(np.full((3, 4, 4, 3), 7, dtype=np.uint8), "constant")
    processor = measured(constant, 4, 3)
    assert processor.std == (1.0, 1.0, 1.0)
    assert torch.allclose(processor.normalised(processor.read(constant)), torch.zeros(1), atol=1e-6)


def test_an_epoch_has_every_image_once_in_another_order(tmp_path: Path) -> None:
    for split, count in (("train", 28), ("valid", 4), ("test", 4)):
        write_folder(tmp_path / split, count)
    train = batches(load(tmp_path), names=())
    plain = batches(load(tmp_path), None)
    assert train.num_batches == 6
    rows = []
    for source, epoch in ((plain, 0), (train, 0), (train, 1)):
        found = [source.batch(epoch, index) for index in range(6)]
        assert [batch.num_rows for batch in found] == [5, 5, 5, 5, 5, 3]
        assert all(bool(batch.loss_mask.all()) and batch.targets.dtype == torch.int64 for batch in found)
        rows.append(torch.cat([batch.inputs.flatten(1) for batch in found]))
    assert not torch.equal(rows[1], rows[2])
    for shuffled in rows[1:]:
        assert torch.equal(shuffled.sort(dim=0).values, rows[0].sort(dim=0).values)


def test_a_batch_is_a_function_of_seed_epoch_and_index(tmp_path: Path) -> None:
    write_folder(tmp_path, 40)
    found = load(tmp_path)
    first = batches(found)
    again = batches(load(tmp_path))
    kept = [first.batch(epoch, index) for epoch in range(2) for index in range(6)]
    for number in (11, 0, 7):
        assert same(again.batch(*divmod(number, 6)), kept[number])
    assert not same(batches(found, seed=1).batch(0, 0), kept[0])
    # Copies of one image differ by their augmentation only: every batch draws another one.
    alike = found._replace(train=found.train.take(np.zeros(len(found.train.labels), dtype=np.int64)))
    drawn = [batches(alike).batch(epoch, index).inputs for epoch in range(2) for index in range(6)]
    assert len({inputs.numpy().tobytes() for inputs in drawn}) == 12


def test_reading_from_files_gives_what_memory_gives(tmp_path: Path) -> None:
    write_folder(tmp_path, 40)
    held = load(tmp_path, image_size=6)
    lazy = load(tmp_path, in_memory_mb=0.0, image_size=6)
    assert all(isinstance(image.content, np.ndarray) for image in held.train.images)
    assert all(isinstance(image.content, Path) for image in lazy.train.images)
    assert lazy.processor == held.processor
    for epoch, index in ((0, 0), (3, 5)):
        assert same(batches(lazy).batch(epoch, index), batches(held).batch(epoch, index))


def test_images_are_decoded_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, 40)
    monkeypatch.setattr("fftnet.data.images.loading.MEASURED", 4)
    # Two images at a time are measured, which limits memory.
    monkeypatch.setattr("fftnet.data.images.processor.MAX_VALUES", 2 * 8 * 8 * 3)
    counts: list[int] = []
    monkeypatch.setattr(
        "fftnet.data.images.processor.read_images",
        lambda images, size, channels: counts.append(len(images)) or read_images(images, size, channels),
    )
    found = load(tmp_path, in_memory_mb=0.0)
    assert counts == [2, 2]
    batches(found).batch(0, 0)
    assert counts == [2, 2, 5]


def test_splits_share_nothing_and_evaluation_finds_the_same_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path, 40)
    data = DataConfig(data=[str(tmp_path)], valid_fraction=0.2, test_fraction=0.1)
    other = str(write_folder(tmp_path.with_name("other"), 6))
    for valid_data, count in ((None, 40), (other, 46)):
        found = load(tmp_path, in_memory_mb=0.0, valid_data=valid_data)
        names = [{image.name for image in images.images} for images in found[:3]]
        assert len(set().union(*names)) == sum(map(len, names)) == count
        test, digest = load_test_images(data, found.train.class_names, valid_data=valid_data, whole=False)
        assert digest == found.digest
        assert {image.name for image in test.images} == names[2]
    assert len(load_test_images(data, ("left", "below"), whole=True)[0].labels) == 40


def test_given_splits_are_not_divided_further(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        write_folder(tmp_path / split, 10, seed=seed)
    write_folder(tmp_path / "other", 6, channels=1)
    assert [len(images.labels) for images in load(tmp_path)[:3]] == [10, 10, 10]
    found = load(tmp_path, valid_data=str(tmp_path / "other"), test_data=str(tmp_path / "val"))
    assert [len(images.labels) for images in found[:3]] == [10, 6, 10]
    whole, _ = load_test_images(DataConfig(data=[str(tmp_path)]), ("left", "below"), whole=True)
    assert len(whole.labels) == 30
    assert ("left", "below")[whole.labels[0]] == Path(whole.images[0].name).parent.name


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_images_that_are_added_move_no_other_image_to_another_split(kind: str, tmp_path: Path) -> None:
    splits: list[list[set[bytes]]] = []
    for count in (80, 100):
        path = tmp_path / f"{count}.npz"
        if kind == "npz":
            images, labels = pictures(count)
            np.savez(path, images=images, labels=labels)
        else:
            path = write_folder(tmp_path / "images", count)
        parts = load(path, in_memory_mb=0.0)[:3]
        splits.append([{image.key() for image in part.images} for part in parts])
    few, many = splits
    assert sum(map(len, few)) == 80
    assert sum(map(len, many)) == 100
    assert all(before <= after for before, after in zip(few, many, strict=True))


def test_flips_and_crops_move_pixels_and_nothing_else() -> None:
    images, labels = pictures(200)
    for name in ("flip", "crop"):
        changed = augmented(Examples(images, labels), changes(name), (0, 1, 2))
        assert changed.images.dtype == np.uint8
        assert np.array_equal(changed.targets, labels)
        kinds = set()
        for before, after in zip(images, changed.images, strict=True):
            padded = np.pad(before, ((1, 1), (1, 1), (0, 0)))
            windows = [padded[top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
            possible = {"flip": [before, before[:, ::-1]], "crop": windows}[name]
            (kind,) = [kind for kind, wanted in enumerate(possible) if np.array_equal(after, wanted)]
            kinds.add(kind)
        assert len(kinds) == {"flip": 2, "crop": 9}[name]


def test_mixup_blends_images_and_targets_alike() -> None:
    images, labels = pictures(2, channels=1)
    strong = partial(mixup, alpha=5.0, num_classes=3)
    for seed in range(20):
        mixed, targets = augmented(Examples(images, labels), [strong], (seed,))
        assert (mixed.dtype, targets.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        blended = np.tensordot(targets[:, :2], images.astype(np.float32), axes=1)
        np.testing.assert_allclose(mixed, blended, rtol=1e-5, atol=1e-3)
        if 0.1 < targets[0, 0] < 0.9:
            return
    raise AssertionError("no seed blends two images")


def test_rand_augment_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(MissingPackageError, match=r"rand_augment needs torchvision: pip install '\.\[augm"):
        changes("rand_augment")


def test_a_processor_is_read_as_it_was_written(tmp_path: Path) -> None:
    processor = ImageProcessor(12, (0.25,), (0.5,))
    processor.save(tmp_path)
    assert ImageProcessor.load(tmp_path) == processor
    with pytest.raises(CheckpointError, match="is missing"):
        ImageProcessor.load(tmp_path / "absent")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"width": 12', '"width": 13'))
    with pytest.raises(CheckpointError, match="is not that of an image model of ours: images are square"):
        ImageProcessor.load(tmp_path)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="is not that of an image model"):
        ImageProcessor.load(tmp_path)
    with pytest.raises(ValueError, match="no mean and standard deviation"):
        ImageProcessor(12, (0.25, 0.25), (0.5, 0.5))
