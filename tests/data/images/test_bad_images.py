"""Images that can't be read or used end in a sentence that names them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from pictures import pictures, read, write_folder, write_idx, write_mnist
from PIL import Image

from fftnet.data.errors import DataError
from fftnet.data.images import find_kind
from fftnet.data.images.loading import load_images, load_test_images
from fftnet.utils.dataset import DataConfig


def load(path: Path, image_size: int | None = None, test_data: str | None = None) -> object:
    return load_images(DataConfig(data=[str(path)]), image_size=image_size, test_data=test_data)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 20, size=32)
    path = tmp_path / "left" / "004.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"left/004.png can't be read as an image \(.*truncated.*\): repair"):
        load(tmp_path)
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"left/004.png is no image: repair it or take it away"):
        load(tmp_path)
    path.write_bytes(whole[:100] + bytes(40) + whole[140:])
    with pytest.raises(DataError, match=r"left/004.png can't be read as an image"):
        load(tmp_path)
    Image.fromarray(np.ones((32, 32), dtype=np.float32)).save(path.with_suffix(".tif"))
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"left/004.tif can't be read .*floating-point"):
        load(tmp_path)


def test_folders_without_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not there: name an \.npz file"):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no classes: make a folder for each class"):
        load(tmp_path)
    write_folder(tmp_path, 20, classes=("cat", "cat"))
    with pytest.raises(DataError, match="holds one class, 'cat': there is nothing to tell apart"):
        load(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        find_kind(str(tmp_path / "none")).read_pixels(tmp_path / "none")
    (tmp_path / "text.txt").write_text("a text")
    with pytest.raises(DataError, match="holds no images: name"):
        load(tmp_path / "text.txt")
    with pytest.raises(DataError, match=r"000.png is one image: name a folder"):
        load(tmp_path / "cat" / "000.png")


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    Image.new("RGB", (9, 8)).save(tmp_path / "left" / "wide.png")
    with pytest.raises(DataError, match=r"are of several sizes: say with --image_classification.image_size"):
        load(tmp_path)
    assert load(tmp_path, image_size=8)
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 4, 6), dtype=np.uint8), y=np.arange(9) % 2)
    with pytest.raises(DataError, match="are of 6 x 4 pixels"):
        load(tmp_path / "a.npz")


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "train", 20)
    write_folder(tmp_path / "data" / "test", 4, classes=("left", "cat"))
    with pytest.raises(DataError, match=r"cat/001.png is of the class 'cat', which no image of training is"):
        load(tmp_path / "data")
    data = DataConfig(data=[str(tmp_path / "data" / "test")])
    with pytest.raises(
        DataError, match=r"of the class 'cat', which .* \(they are of below, left\): correct it"
    ):
        load_test_images(data, ("below", "left"), whole=True)


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    write_folder(tmp_path / "few", 2)
    with pytest.raises(DataError, match="2 rows have 2 different labels, and each class needs 3"):
        load(tmp_path / "few")
    write_folder(tmp_path / "both" / "train", 20)
    write_folder(tmp_path / "both" / "valid", 4)
    with pytest.raises(DataError, match="both holds train and valid images, but no test ones"):
        load(tmp_path / "both", test_data=str(tmp_path / "both"))
    (tmp_path / "both" / "train").rename(tmp_path / "both" / "gone")
    with pytest.raises(DataError, match="has no training images: it holds those of valid alone"):
        load(tmp_path / "both")
    with pytest.raises(DataError, match=r"images come from one source, got a, b: name"):
        load_images(DataConfig(data=["a", "b"]))
    with pytest.raises(DataError, match=r"--data must name the images"):
        load_images(DataConfig())


def test_arrays_that_are_no_labelled_images(tmp_path: Path) -> None:
    images, labels = pictures(6)
    path = tmp_path / "a.npz"

    def refused(match: str, **arrays: object) -> None:
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(DataError, match=match):
            read(path)

    ragged = np.empty(2, dtype=object)
    ragged[:] = [images[0], images[1, :4]]
    refused("holds an array of Python objects, as images of several sizes make one", x=ragged, y=labels[:2])
    refused("has no labels: it holds images, wanted are", images=images)
    refused("has no labels of its test images", x_train=images, y_train=labels, x_test=images)
    refused("has no images: it holds labels", labels=labels)
    refused("has 6 images and labels of shape", x=images, y=labels[:5])
    refused("has 6 images and labels of shape", x=images, y=np.eye(6, dtype=int))
    refused("images must be uint8 of shape", x=images / 255, y=labels)
    refused("images must be uint8 of shape", x=images.transpose(0, 3, 1, 2), y=labels)
    refused("labels must be integers or strings, got float64", x=images, y=labels / 2)
    refused("has 2 class_names, but a label 2", x=images, y=labels + 1, class_names=["a", "b"])
    refused("class_names must be strings", x=images, y=labels, class_names=[1, 2])
    np.savez(path, x=images, y=labels)
    whole = path.read_bytes()
    for damaged in (whole[:-300], whole[:200] + bytes(50) + whole[250:], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.npz is no whole .npz file \(.*\): make it again"):
            read(path)


def test_idx_files_that_are_damaged(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for data, match in (
        (whole[:-1], "is not whole: its header promises 1344 bytes, 1343 follow"),
        (b"\1" + whole[1:], "does not begin like an IDX file"),
        (whole[:9], "does not begin like an IDX file"),
        (b"", "does not begin like an IDX file"),
        (whole[:2] + b"\x0d" + whole[3:], "holds numbers of type 0x0d"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=match):
            read(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte has no images beside it"):
        read(tmp_path)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    for data in (b"no gzip", gzip.compress(whole)[:-20]):
        packed.write_bytes(data)
        with pytest.raises(DataError, match=r"ubyte.gz can't be read \(.*\): fetch it again"):
            read(tmp_path)
    write_idx(path, np.zeros((3, 8, 8), dtype=np.uint8))
    packed.unlink()
    with pytest.raises(DataError, match="has 3 images and labels of shape"):
        read(tmp_path)
    write_mnist(tmp_path, family="emnist-")
    with pytest.raises(DataError, match="holds several data sets"):
        read(tmp_path)
