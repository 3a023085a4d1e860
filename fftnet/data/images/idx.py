"""The IDX files of the MNIST family: ``train-images-idx3-ubyte`` beside its labels, ``t10k-`` to test."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.images.base import TEST, TRAIN, ImageKind, LabelledImages, check_unpacked, labelled
from fftnet.data.images.pixels import ImageArray, Pixels
from fftnet.data.walk import visible_children

NAME = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[.-]idx([1-4])-ubyte(\.gz)?", re.IGNORECASE)
"""Family, split and content by the name of a file; some families lie in one folder (EMNIST)."""
UNSIGNED_BYTES = 8
MAX_DIMENSIONS = 4


class IdxName(NamedTuple):
    """What the name of a file says."""

    family: str
    split: str
    content: str


def parse_name(path: Path) -> IdxName | None:
    """What the name says; None of a file that is none of them."""
    found = NAME.fullmatch(path.name)
    if found is None:
        return None
    split = TRAIN if found[2].lower() == "train" else TEST
    return IdxName(found[1], split, found[3].lower())


class IdxFiles(ImageKind):
    """A folder of such files, or one of them, whose sisters are found."""

    label = "IDX files (train-images-idx3-ubyte)"

    def recognises(self, path: Path) -> bool:
        """A file of such a name, or a folder that holds one."""
        if path.is_dir():
            return any(parse_name(child) and child.is_file() for child in visible_children(path))
        return path.is_file() and parse_name(path) is not None

    def read(self, path: Path) -> dict[str, LabelledImages]:
        """The training and test images that are there.

        Raises:
            DataError: if a file is missing, damaged, or of another length than its labels.
        """
        files = _family(path)
        splits = {}
        for split in (TRAIN, TEST):
            images, labels = (files.get((split, content)) for content in ("images", "labels"))
            if images is None and labels is None:
                continue
            if images is None or labels is None:
                found = images or labels
                lacking = "labels" if labels is None else "images"
                raise DataError(f"{found} has no {lacking} beside it: put the file of its {lacking} there")
            pixels = ImageArray(read_idx(images), str(images))
            splits[split] = labelled(pixels, read_idx(labels), None, str(images))
        return splits

    def read_pixels(self, path: Path) -> Pixels:
        """The images of a file, or of a folder those of the test.

        Raises:
            DataError: if the file is damaged, or there is none.
        """
        files = _family(path)
        name = parse_name(path)
        wanted = [TEST, TRAIN] if name is None else [name.split]
        for split in wanted:
            if file := files.get((split, "images")):
                return ImageArray(read_idx(file), str(file))
        raise DataError(f"{path} has no images beside it")


def _family(path: Path) -> dict[tuple[str, str], Path]:
    """Split and content to file, of the one family that is meant."""
    own = parse_name(path)
    folder = path if own is None else path.parent
    files = (child for child in visible_children(folder) if child.is_file())
    named = {child: name for child in files if (name := parse_name(child))}
    families = sorted({name.family for name in named.values()})
    if own is None and len(families) > 1:
        raise DataError(f"{path} holds several data sets ({', '.join(families)}): name one of their files")
    family = own.family if own else families[0]
    return {(name.split, name.content): child for child, name in named.items() if name.family == family}


def read_idx(path: Path) -> np.ndarray:
    """Read the uint8 array in a file, packed by gzip or not.

    Raises:
        DataError: if it can't be read, or its header does not belong to what follows.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            shape = _read_shape(stream, path)
            count = math.prod(shape)
            if packed:
                check_unpacked(path, count)
            data = stream.read(count if packed else min(count, path.stat().st_size))
            more = stream.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read ({error}): fetch it again") from error
    if len(data) < count or more:
        follow = "more" if more else len(data)
        raise DataError(
            f"{path} is not whole: its header promises {count} bytes, {follow} follow; fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _read_shape(stream: IO[bytes] | gzip.GzipFile, path: Path) -> tuple[int, ...]:
    """Read the header, which ends where the bytes of the array begin."""
    magic = stream.read(4)
    dimensions = magic[3] if len(magic) == 4 else 0
    sizes = stream.read(4 * dimensions)
    if magic[:2] != b"\0\0" or len(magic) < 4 or len(sizes) < 4 * dimensions:
        raise DataError(f"{path} does not begin like an IDX file: fetch it again")
    if magic[2] != UNSIGNED_BYTES:
        raise DataError(f"{path} holds numbers of type {magic[2]:#04x}: only bytes (0x08) are read")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if not 1 <= dimensions <= MAX_DIMENSIONS or 0 in shape:
        raise DataError(f"{path} has the shape {shape}: 1 to {MAX_DIMENSIONS} dimensions above 0 are read")
    return shape
