"""Images that can't be read or used end in a sentence that names them."""

import random
import struct
import threading
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import pictures, read, write_folder
from PIL import Image

from fftnet.data.errors import DataError
from fftnet.data.images import pixels
from fftnet.data.images.kinds import find_kind
from fftnet.data.images.loading import load_images, load_test_images
from fftnet.utils.dataset import DataConfig


def load(path: Path, image_size: int | None = None, test_data: str | None = None) -> object:
    return load_images(DataConfig(data=[str(path)]), image_size=image_size, test_data=test_data)


def refused(match: str, path: Path, **named: Any) -> None:
    with pytest.raises(DataError, match=match):
        load(path, **named)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 20, size=32)
    path = tmp_path / "left" / "004.png"
    whole = path.read_bytes()
    for data, match in (
        (whole[: len(whole) // 2], r"can't be read as an image \(.*truncated.*\): repair"),
        (b"no image", "is no image: repair it or remove it"),
        (whole[:100] + bytes(40) + whole[140:], "can't be read as an image"),
    ):
        path.write_bytes(data)
        refused(f"left/004.png {match}", tmp_path)
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    refused("left/004.png is a EPS file: convert it to PNG or JPEG", tmp_path)
    path.write_bytes(whole)
    Image.fromarray(np.ones((32, 32), dtype=np.float32)).save(path.with_suffix(".tif"))
    refused("left/004.tif can't be read .*floating-point", tmp_path)


def test_folders_without_classes(tmp_path: Path) -> None:
    refused(r"does not exist: name an \.npz file", tmp_path / "absent")
    refused("holds no classes: make a folder for each class", tmp_path)
    write_folder(tmp_path, 20, classes=("cat", "cat"))
    refused("holds one class, 'cat': a classifier needs two", tmp_path)
    refused("000.png is one image: name a folder", tmp_path / "cat" / "000.png")
    (tmp_path / "text.txt").write_text("a text")
    refused("holds no images: name", tmp_path / "text.txt")
    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no image"):
        find_kind(str(empty)).read_unlabelled(empty)
    (empty / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    for path in (empty, empty / "t10k-images-idx3-ubyte.gz"):
        refused(r"holds IDX files, which are not read: convert them to an \.npz file .* or a folder", path)


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    Image.new("RGB", (9, 8)).save(tmp_path / "left" / "wide.png")
    refused("have several sizes: set --image_classification.image_size", tmp_path)
    assert load(tmp_path, image_size=8)
    path = tmp_path / "a.npz"
    for height, width in ((4, 6), (1025, 1025)):
        np.savez(path, x=np.zeros((9, height, width), dtype=np.uint8), y=np.arange(9) % 2)
        refused(f"have {width} x {height} pixels: set --image_classification.image_size", path)
    assert load(path, image_size=8)


def test_classes_and_splits_that_are_missing(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "train", 20)
    test = write_folder(tmp_path / "data" / "test", 4, classes=("left", "cat"))
    match = r"cat/001.png has the class 'cat', which no training image has \(their classes: below, left\)"
    refused(match, tmp_path / "data")
    with pytest.raises(DataError, match=match):
        load_test_images(DataConfig(data=[str(test)]), ("below", "left"), whole=True)
    refused("2 rows have 2 different labels, and each class needs 3", write_folder(tmp_path / "few", 2))
    both = tmp_path / "both"
    write_folder(both / "train", 20)
    write_folder(both / "valid", 4)
    refused("both holds train and valid images, but no test ones", both, test_data=str(both))
    (both / "train").rename(both / "gone")
    refused("has no training images, only those of valid", both)
    with pytest.raises(DataError, match="images come from one source, got a, b: name"):
        load_images(DataConfig(data=["a", "b"]))
    with pytest.raises(DataError, match="--data must name the images"):
        load_images(DataConfig())


def test_arrays_that_are_no_labelled_images(tmp_path: Path) -> None:
    images, labels = pictures(6)
    path = tmp_path / "a.npz"
    ragged = np.empty(2, dtype=object)
    ragged[:] = [images[0], images[1, :4]]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("holds an array of Python objects, as images of several sizes make", {"x": ragged, "y": labels[:2]}),
        ("has no labels: it holds images, but needs", {"images": images}),
        ("has no labels of its test images", {"x_train": images, "y_train": labels, "x_test": images}),
        ("has no images: it holds labels", {"labels": labels}),
        ("has 6 images and labels of shape", {"x": images, "y": labels[:5]}),
        ("has 6 images and labels of shape", {"x": images, "y": np.eye(6, dtype=int)}),
        ("images must be uint8 of shape", {"x": images / 255, "y": labels}),
        ("images must be uint8 of shape", {"x": images.transpose(0, 3, 1, 2), "y": labels}),
        ("labels must be integers or strings, got float64", {"x": images, "y": labels / 2}),
        ("has 2 class_names, but a label 2", {"x": images, "y": labels + 1, "class_names": ["a", "b"]}),
    ]
    for match, arrays in cases:
        np.savez(path, **arrays)
        refused(match, path)
    np.savez(path, x=images, y=labels)
    whole = path.read_bytes()
    for damaged in (whole[:-300], whole[:200] + bytes(50) + whole[250:], b"", b"text"):
        path.write_bytes(damaged)
        refused(r"a.npz is no complete .npz file \(.*\): write it again", path)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int) -> bytes:
    """Return a small file whose header announces a large image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "jpg", "png", "ppm", "tif", "webp"])
def test_damage_of_any_format_ends_in_a_sentence(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pictures(1, 24)[0][0]).save(path)
    whole = path.read_bytes()
    rng = random.Random(3)
    errors = 0
    for number in range(40):
        data = bytearray(whole)
        if number % 2:
            # Half of the damage is in the part that all readers parse, the header.
            for place in rng.sample(range(len(data) if number % 4 == 1 else min(len(data), 200)), 4):
                data[place] = rng.randrange(256)
        else:
            del data[len(data) * number // 40 :]
        path.write_bytes(data)
        try:
            pixels.lazy_files([path])[0].pixels()
        except DataError as error:
            errors += 1
            if not str(error).startswith(str(path)):
                raise
    assert errors >= 10


@pytest.mark.parametrize("size", [(8200, 8200), (12_000, 9000), (60_000, 60_000)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(*size))
    unread = pixels.LazyImage("bomb", path, (1, 1), False)
    for read_one in (lambda: pixels.lazy_files([path]), unread.pixels):
        with pytest.raises(DataError, match=r"bomb.png has more than 67 million pixels: make it smaller"):
            read_one()


def test_threads_decode_no_more_pixels_at_the_same_time_than_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, 20, size=8)
    for number in range(3):
        Image.new("RGB", (12, 12)).save(tmp_path / "left" / f"large{number}.png")
    decode = pixels._array
    lock = threading.Lock()
    running = 0
    seen: dict[int, int] = {}

    def watched(image: Image.Image) -> np.ndarray:
        nonlocal running
        area = image.width * image.height
        with lock:
            running += area
            seen[area] = max(seen.get(area, 0), running)
        time.sleep(0.005)
        with lock:
            running -= area
        return decode(image)

    monkeypatch.setattr(pixels, "_array", watched)
    monkeypatch.setattr("fftnet.data.images.pixels.MAX_PIXELS", 3 * 64 - 1)
    monkeypatch.setattr("fftnet.data.images.pixels.READ_AT_ONCE", 5)
    images = find_kind(str(tmp_path)).read_unlabelled(tmp_path)
    found = pixels.read_images(images, 8, 3)
    assert seen == {64: 2 * 64, 144: 144}
    for image, expected in zip(images, found, strict=True):
        assert np.array_equal(pixels.fitted(image.pixels(), 8, 3), expected)


def npy(header: str, body: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def described(descr: str, shape: str, body: bytes = b"") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n", body)


X = described("'|u1'", "(2, 2, 2)", bytes(8))
Y = described("'|u1'", "(2,)", b"\0\1")
AB = described("'<U1'", "(2,)", struct.pack("<II", 65, 66))


HOSTILE_ARRAYS: list[tuple[str, bytes, bytes | None, bytes | None]] = [
    ("no complete .npz", described("'|u1'", "(1099511627776, 8, 8)", bytes(99)), Y, None),
    ("no complete .npz", described("'|V2000000000'", "(2, 2, 2)", bytes(8)), Y, None),
    ("no complete .npz", described("'|u1'", "(-2, 2, 2)", bytes(8)), Y, None),
    ("no complete .npz", X, described("'<U0'", "(1099511627776,)"), None),
    ("no complete .npz", described("'|u1'", "(2.0, 2, 2)", bytes(8)), Y, None),
    ("no complete .npz", described("'|u1'", "'ab'", bytes(8)), Y, None),
    ("no complete .npz", described("'|u1'", "(18446744073709551616, 0)"), Y, None),
    ("no complete .npz", described("'|Q9'", "(2,)"), Y, None),
    ("no complete .npz", npy("[" * 3000), Y, None),
    ("no complete .npz", npy("{" + " " * 20_000), Y, None),
    ("no complete .npz", npy("{}"), Y, None),
    ("no complete .npz", npy("no header"), Y, None),
    (r"version 7\.1 of the format", npy("{}", version=b"\7\1"), Y, None),
    ("no complete .npz", b"no array", Y, None),
    ("no complete .npz", b"", Y, None),
    (r"must be uint8 .* got uint8 of shape \(0, 2, 2\)", described("'|u1'", "(0, 2, 2)"), Y, None),
    ("must be uint8 .* got complex128", described("'<c16'", "(2, 2, 2)", bytes(128)), Y, None),
    ("must be uint8 ", described("[('a', '|u1'), ('b', '|u1')]", "(2, 2, 2)", bytes(16)), Y, None),
    ("an array of Python objects", described("'|O'", "(2,)", b"\x80\x04N."), Y, None),
    ("has no labels", X, None, None),
    ("got float64", X, described("'<f8'", "(2,)", struct.pack("<dd", float("nan"), 1)), None),
    ("got complex128", X, described("'<c16'", "(2,)", bytes(32)), None),
    (r"got datetime64\[s\]", X, described("'<M8[s]'", "(2,)", bytes(16)), None),
    (r"labels of shape \(\)", X, described("'|u1'", "()", b"\0"), None),
    ("but a label -1", X, described("'<i8'", "(2,)", struct.pack("<qq", -1, 1)), AB),
    ("but a label 18446744073709551615", X, described("'<u8'", "(2,)", b"\xff" * 16), AB),
    ("no Unicode text", X, described("'<U1'", "(2,)", struct.pack("<II", 0xD800, 65)), None),
    ("no Unicode text", X, described("'<U1'", "(2,)", struct.pack("<II", 0x7FFFFFFF, 65)), None),
    ("no Unicode text", X, Y, described("'<U1'", "(2,)", struct.pack("<II", 0xDC00, 65))),
    ("have the same name", X, Y, described("'<U1'", "(2,)", struct.pack("<II", 65, 65))),
    ("class_names must be strings", X, Y, described("'|u1'", "(2,)", bytes(2))),
    ("class_names must be strings", X, Y, described("'<U1'", "()", bytes(4))),
]


@pytest.mark.parametrize(("sentence", "images", "labels", "names"), HOSTILE_ARRAYS, ids=range(32))
def test_a_hostile_npz_ends_in_a_sentence_before_memory_is_taken(
    sentence: str, images: bytes, labels: bytes | None, names: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (("x", images), ("y", labels), ("class_names", names)):
            if data is not None:
                archive.writestr(f"{name}.npy", data)
    tracemalloc.start()
    try:
        refused(rf"a\.npz.*{sentence}", path)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


def test_archives_that_no_reader_unpacks_end_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((2, 2, 2), np.uint8), y=np.arange(2))
    whole = path.read_bytes()
    directory = whole.index(b"PK\1\2")
    # Byte 8 of an entry of the directory says that it is encrypted, byte 10 how it is packed.
    for place, value in ((8, 1), (10, 99), (10, 14)):
        data = bytearray(whole)
        data[directory + place] = value
        data[6 if place == 8 else 8] = value
        path.write_bytes(data)
        refused(r"a.npz is no complete .npz file \(.+\): write it again", path)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fftnet.data.images.kinds.UNPACKED_BYTES", 2**20)
    zeros = np.zeros((4000, 32, 32), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=zeros, y=np.arange(4000) % 2)
    refused("unpacks to 0.0 GB, more than 32 times as much: unpack it yourself", tmp_path / "a.npz")
    monkeypatch.undo()
    assert len(read(tmp_path / "a.npz")["train"].labels) == 4000
