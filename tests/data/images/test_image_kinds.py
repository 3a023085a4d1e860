"""Folders, .npz files and IDX files of images: what is read of each."""

from pathlib import Path

import numpy as np
import pytest
from pictures import pictures, read, write_folder, write_mnist
from PIL import Image

from fftnet.data.images import LabelledImages, find_kind
from fftnet.data.images.decoding import decode, fitted
from fftnet.data.images.pixels import JoinedImages


def everything(images: LabelledImages, size: int = 8, channels: int = 3) -> np.ndarray:
    return images.pixels.read(np.arange(len(images.labels)), size, channels)


def names_of(images: LabelledImages) -> list[str]:
    return [images.class_names[label] for label in images.labels]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_classes_is_read_as_it_was_written(channels: int, tmp_path: Path) -> None:
    write_folder(tmp_path, 7, channels=channels)
    (tmp_path / "left" / "notes.txt").write_text("no image")
    (tmp_path / "left" / "._000.png").write_bytes(b"what a desktop leaves")
    (tmp_path / "empty").mkdir()
    found = read(tmp_path)
    assert list(found) == ["train"]
    images, labels = pictures(7, channels=channels)
    order = [1, 3, 5, 0, 2, 4, 6]
    assert found["train"].class_names == ("below", "left")
    assert found["train"].labels.tolist() == [1 - labels[n] for n in order]
    assert found["train"].labels.dtype == np.int64
    pixels = found["train"].pixels
    assert (pixels.size, pixels.grey) == ((8, 8), channels == 1)
    assert np.array_equal(everything(found["train"], channels=channels), images[order])
    assert pixels.name(0) == str(tmp_path / "below" / "001.png")


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_folders_of_splits_are_taken_as_they_are(valid: str, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", valid, "test")):
        write_folder(tmp_path / split, 4 + 2 * seed, seed=seed)
    found = read(tmp_path)
    assert {split: len(images.labels) for split, images in found.items()} == {
        "train": 4,
        "valid": 6,
        "test": 8,
    }


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    write_folder(tmp_path, 4, classes=("train", "bus"))
    assert read(tmp_path)["train"].class_names == ("bus", "train")


def test_images_in_folders_below_a_class_are_of_the_class(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    write_folder(tmp_path / "left" / "more", 2)
    found = read(tmp_path)["train"]
    assert names_of(found).count("left") == 2 + 2


def test_hidden_images_are_no_images_and_linked_folders_are_followed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", 6)
    write_folder(tmp_path / "more", 4)
    for hidden in ("left/._000.png", "left/.ipynb_checkpoints/000.png", ".trash/000.png"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes((folder / "left/000.png").read_bytes())
    (folder / "left/linked").symlink_to(tmp_path / "more/left")
    (folder / "left/loop").symlink_to(folder / "left")
    found = read(folder)["train"]
    assert found.class_names == ("below", "left")
    assert np.bincount(found.labels).tolist() == [3, 5]
    assert len(find_kind(str(folder)).read_pixels(folder / "left")) == 5


def test_hidden_idx_files_are_no_second_family(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "._train-images-idx3-ubyte").write_bytes(b"")
    assert {split: len(images.labels) for split, images in read(tmp_path).items()} == {"train": 21, "test": 5}


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
    holes = np.asarray(few) == 0
    assert (decode(tmp_path / "holes.png")[holes] == 255).all()
    light = np.stack([grey, opacity[..., 0]], axis=-1)
    seen_light = seen(Image.fromarray(light))
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
    np.savez(tmp_path / "a.npz", images=stored, labels=labels[:, None])
    found = read(tmp_path / "a.npz")["train"]
    assert found.pixels.grey == (channels < 2)
    assert found.class_names == ("0", "1")
    assert found.labels.tolist() == labels.tolist()
    got = everything(found, channels=1 if channels < 2 else 3)
    if channels == 4:
        opacity = images[..., 3:] / 255
        assert np.abs(got - (images[..., :3] * opacity + 255 * (1 - opacity))).max() <= 1
    else:
        assert np.array_equal(got, images)
    assert found.pixels.name(3).endswith("a.npz row 3")


@pytest.mark.parametrize(
    ("x", "y", "form"),
    [
        ("x", "y", "{}_{}"),
        ("X", "Y", "{}_{}"),
        ("images", "labels", "{1}_{0}"),
        ("images", "labels", "{}_{}"),
    ],
)
def test_arrays_of_splits_by_their_usual_names(x: str, y: str, form: str, tmp_path: Path) -> None:
    arrays = {}
    for count, split in ((6, "train"), (4, "val"), (3, "test")):
        arrays[form.format(x, split)], arrays[form.format(y, split)] = pictures(count)
    np.savez(tmp_path / "a.npz", **arrays, class_names=np.array(["left", "below", "unseen"]))
    found = read(tmp_path / "a.npz")
    assert [len(found[split].labels) for split in ("train", "valid", "test")] == [6, 4, 3]
    assert found["test"].class_names == ("left", "below", "unseen")
    assert len(find_kind(str(tmp_path / "a.npz")).read_pixels(tmp_path / "a.npz")) == 3


def test_labels_may_be_words_or_any_integers(tmp_path: Path) -> None:
    images, _ = pictures(3)
    np.savez(tmp_path / "words.npz", x=images, y=np.array(["dog", "cat", "dog"]))
    np.savez(tmp_path / "numbers.npz", x=images, y=np.array([10, -2, 9]))
    assert names_of(read(tmp_path / "words.npz")["train"]) == ["dog", "cat", "dog"]
    assert names_of(read(tmp_path / "numbers.npz")["train"]) == ["10", "-2", "9"]
    assert read(tmp_path / "numbers.npz")["train"].class_names == ("-2", "9", "10")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_by_their_folder_and_by_one_of_them(ending: str, tmp_path: Path) -> None:
    written = write_mnist(tmp_path, ending)
    for path in (tmp_path, tmp_path / f"t10k-labels-idx1-ubyte{ending}"):
        found = read(path)
        for split, name in (("train", "train"), ("test", "t10k")):
            images, labels = written[name]
            assert np.array_equal(everything(found[split], channels=1), images)
            assert names_of(found[split]) == [str(label) for label in labels]
    assert found["train"].pixels.grey
    name = tmp_path / f"train-images-idx3-ubyte{ending}"
    assert len(find_kind(str(name)).read_pixels(name)) == 21
    assert len(find_kind(str(tmp_path)).read_pixels(tmp_path)) == 5


def test_of_several_families_in_a_folder_one_is_named_by_a_file(tmp_path: Path) -> None:
    write_mnist(tmp_path, family="emnist-letters-")
    write_mnist(tmp_path, family="emnist-digits-")
    assert len(read(tmp_path / "emnist-digits-train-images-idx3-ubyte")["train"].labels) == 21


def test_joined_images_are_found_in_their_part(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", 3)
    write_folder(tmp_path / "b", 2, seed=1)
    parts = [read(tmp_path / name)["train"].pixels for name in ("a", "b")]
    joined = JoinedImages(parts)
    assert len(joined) == 5
    alone = np.concatenate([part.read(np.arange(len(part)), 6, 1) for part in parts])
    assert np.array_equal(joined.read(np.array([4, 0, 2, 3, 1]), 6, 1), alone[[4, 0, 2, 3, 1]])
    assert joined.name(3) == parts[1].name(0)
