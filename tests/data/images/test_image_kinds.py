"""Folders and .npz files of images: what is read of each, and how images become one form."""

from pathlib import Path

import numpy as np
import pytest
from pictures import pictures, read, write_folder
from PIL import Image

from fftnet.data.images.kinds import LabelledImages, find_kind
from fftnet.data.images.pixels import fitted, lazy_files, read_images


def everything(images: LabelledImages, size: int = 8, channels: int = 3) -> np.ndarray:
    return read_images(images.images, size, channels)


def names_of(images: LabelledImages) -> list[str]:
    return [images.class_names[label] for label in images.labels]


def decode(path: Path) -> np.ndarray:
    return lazy_files([path])[0].pixels()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_classes_is_read_as_it_was_written(channels: int, tmp_path: Path) -> None:
    write_folder(tmp_path, 7, channels=channels)
    (tmp_path / "left" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    found = read(tmp_path)
    assert list(found) == ["train"]
    images, labels = pictures(7, channels=channels)
    order = [1, 3, 5, 0, 2, 4, 6]
    assert found["train"].class_names == ("below", "left")
    assert found["train"].labels.tolist() == [1 - labels[n] for n in order]
    assert found["train"].labels.dtype == np.int64
    assert np.array_equal(everything(found["train"], channels=channels), images[order])
    first = found["train"].images[0]
    assert (first.name, first.size) == (str(tmp_path / "below" / "001.png"), (8, 8))
    assert first.grey == (channels == 1)


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_folders_of_splits_are_taken_as_they_are(valid: str, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", valid, "test")):
        write_folder(tmp_path / split, 4 + 2 * seed, seed=seed)
    sizes = {split: len(images.labels) for split, images in read(tmp_path).items()}
    assert sizes == {"train": 4, "valid": 6, "test": 8}


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    write_folder(tmp_path, 4, classes=("train", "bus"))
    assert read(tmp_path)["train"].class_names == ("bus", "train")


def test_hidden_images_are_skipped_and_linked_folders_are_followed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", 6)
    write_folder(tmp_path / "more", 4)
    for hidden in ("left/._000.png", "left/.ipynb_checkpoints/000.png", ".trash/000.png"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes((folder / "left/000.png").read_bytes())
    (folder / "left/linked").symlink_to(tmp_path / "more/left")
    (folder / "left/loop").symlink_to(folder / "left")
    found = read(folder)["train"]
    assert found.class_names == ("below", "left")
    # Images in folders below a class belong to the class.
    assert np.bincount(found.labels).tolist() == [3, 5]
    assert len(find_kind(str(folder)).read_unlabelled(folder / "left")) == 5


def test_every_mode_becomes_grey_or_colours_on_white(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grey = colours[..., 0]
    opacity = rng.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    on_white = colours * (opacity / 255) + 255 * (1 - opacity / 255)

    def seen(image: Image.Image, name: str = "image.png") -> np.ndarray:
        image.save(tmp_path / name)
        return decode(tmp_path / name)

    assert np.array_equal(seen(Image.fromarray(colours)), colours)
    assert np.array_equal(seen(Image.fromarray(grey)), grey)
    assert np.array_equal(seen(Image.fromarray(grey > 99)), (grey > 99) * 255)
    deep = grey.astype(np.uint16) * 256 + 99
    assert np.array_equal(seen(Image.fromarray(deep)), grey)
    translucent = seen(Image.fromarray(np.concatenate([colours, opacity], axis=-1)))
    assert np.abs(translucent - on_white).max() <= 1
    few = Image.fromarray(colours // 128 * 128).quantize(8)
    assert np.array_equal(seen(few), np.asarray(few.convert("RGB")))
    few.info["transparency"] = 0
    few.save(tmp_path / "holes.png", transparency=0)
    assert (decode(tmp_path / "holes.png")[np.asarray(few) == 0] == 255).all()
    seen_light = seen(Image.fromarray(np.stack([grey, opacity[..., 0]], axis=-1)))
    assert seen_light.shape == (5, 7)
    assert np.abs(seen_light - (grey * (opacity / 255)[..., 0] + 255 - opacity[..., 0])).max() <= 1
    cmyk = seen(Image.new("CMYK", (7, 5), (0, 255, 255, 0)), "red.tif")
    assert (cmyk == (255, 0, 0)).all()


def test_a_photo_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[:, :2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by a quarter, clockwise.
    Image.fromarray(image).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "photo.png"), np.rot90(image, -1))


def test_images_are_converted_and_resized_to_one_form() -> None:
    colours = np.full((4, 4, 3), (200, 0, 0), dtype=np.uint8)
    assert fitted(colours, 4, 1).shape == (4, 4, 1)
    assert (fitted(colours, 4, 1) == round(0.299 * 200)).all()
    assert np.array_equal(fitted(colours[..., 0], 4, 3), np.full((4, 4, 3), 200))
    wide = np.repeat(np.array([[0, 0, 100, 100]], dtype=np.uint8), 2, axis=0)
    # Each of the two pixels sees three of the four, weighted 3, 3 and 1 by a triangle.
    assert fitted(wide, 2, 1)[..., 0].tolist() == [[14, 86]] * 2


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_of_any_channels(channels: int, tmp_path: Path) -> None:
    images, labels = pictures(5, channels=max(channels, 1))
    stored = images if channels else images[..., 0]
    # The layout of the memory is part of the file.
    stored = np.asfortranarray(stored) if channels == 3 else stored
    np.savez(tmp_path / "a.npz", images=stored, labels=labels[:, None])
    found = read(tmp_path / "a.npz")["train"]
    assert found.images[3].name.endswith("a.npz row 3")
    assert found.images[3].grey == (channels < 2)
    assert found.class_names == ("0", "1")
    assert found.labels.tolist() == labels.tolist()
    got = everything(found, channels=1 if channels < 2 else 3)
    if channels == 4:
        opacity = images[..., 3:] / 255
        assert np.abs(got - (images[..., :3] * opacity + 255 * (1 - opacity))).max() <= 1
    else:
        assert np.array_equal(got, images)


@pytest.mark.parametrize(
    ("x", "y", "form"), [("x", "y", "{}_{}"), ("X", "Y", "{}_{}"), ("images", "labels", "{1}_{0}")]
)
def test_arrays_of_splits_by_their_usual_names(x: str, y: str, form: str, tmp_path: Path) -> None:
    arrays = {}
    for count, split in ((6, "train"), (4, "val"), (3, "test")):
        arrays[form.format(x, split)], arrays[form.format(y, split)] = pictures(count)
    np.savez(tmp_path / "a.npz", **arrays, class_names=np.array(["left", "below", "unseen"]))
    found = read(tmp_path / "a.npz")
    assert [len(found[split].labels) for split in ("train", "valid", "test")] == [6, 4, 3]
    assert found["test"].class_names == ("left", "below", "unseen")
    assert len(find_kind(str(tmp_path / "a.npz")).read_unlabelled(tmp_path / "a.npz")) == 3


def test_labels_may_be_words_or_any_integers(tmp_path: Path) -> None:
    images, _ = pictures(3)
    for labels, class_names in ((["dog", "cat", "dog"], ("cat", "dog")), ([10, -2, 9], ("-2", "9", "10"))):
        np.savez(tmp_path / "a.npz", x=images, y=np.array(labels))
        found = read(tmp_path / "a.npz")["train"]
        assert names_of(found) == [str(label) for label in labels]
        assert found.class_names == class_names


def test_images_of_several_forms_are_read_in_their_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", 3)
    write_folder(tmp_path / "b", 2, size=9, seed=1)
    np.savez(tmp_path / "c.npz", x=pictures(2, 6, 1)[0], y=[0, 1])
    parts = [read(tmp_path / name)["train"].images for name in ("a", "b", "c.npz")]
    alone = np.concatenate([read_images(part, 6, 1) for part in parts])
    joined = [image for part in parts for image in part]
    order = [4, 0, 6, 2, 5, 3, 1]
    assert np.array_equal(read_images([joined[n] for n in order], 6, 1), alone[order])
