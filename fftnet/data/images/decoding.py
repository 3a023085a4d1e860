"""Image files to arrays and arrays to one form, by Pillow."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fftnet.data.errors import DataError, import_extra

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)
"""Of the files that are taken for images; others in the same folder are left alone."""
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"))
DEEP_MODES = frozenset(("I", "I;16", "I;16B", "I;16L"))
"""Pillow's names for grey values of 16 bits."""
WHITE = 255


class Header(NamedTuple):
    """What the beginning of a file tells of its image."""

    size: tuple[int, int]
    """Height and width, before a camera's orientation is applied."""
    grey: bool


def _pillow(name: str) -> Any:
    return import_extra(f"PIL.{name}", "reading and resizing images", "images")


def read_header(path: Path) -> Header:
    """Size and mode of an image, without its pixels.

    Raises:
        DataError: if the file is missing or no image.
    """
    with _opened(path) as image:
        return Header((image.height, image.width), image.mode in GREY_MODES)


def decode(path: Path) -> np.ndarray:
    """An image as it is meant to be seen: turned as the camera was held, on white where it is not opaque.

    Returns:
        uint8 (H, W) of a grey image, else (H, W, 3).

    Raises:
        DataError: if the file is missing, damaged, cut short or no image.
    """
    turned = _pillow("ImageOps").exif_transpose
    with _opened(path) as image:
        return _array(turned(image))


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """An open image; whatever goes wrong while it is read ends in a sentence with its name."""
    module = _pillow("Image")
    # The readers of the many formats have no common error for damage.
    damage = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
    try:
        with module.open(path) as image:
            yield image
    except module.UnidentifiedImageError as error:
        raise DataError(f"{path} is no image: repair it or take it away") from error
    except (*damage, module.DecompressionBombError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        raise DataError(f"{path} can't be read as an image ({reason}): repair it or take it away") from error


def _array(image: "Image") -> np.ndarray:
    if image.mode in DEEP_MODES:
        return np.clip(np.asarray(image).astype(np.int64) >> 8, 0, WHITE).astype(np.uint8)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no white")
    grey = image.mode in GREY_MODES
    if "A" in image.getbands() or image.mode == "La" or "transparency" in image.info:
        image = _on_white(image.convert("RGBA"))
    return np.asarray(image.convert("L" if grey else "RGB"))


def _on_white(image: "Image") -> "Image":
    module = _pillow("Image")
    return module.alpha_composite(module.new("RGBA", image.size, (WHITE,) * 4), image)


def without_alpha(image: np.ndarray) -> np.ndarray:
    """An image on white, uint8 (H, W, 3), if it is of shape (H, W, 4); any other as it is."""
    if image.ndim == 2 or image.shape[2] != 4:
        return image
    return np.asarray(_on_white(_pillow("Image").fromarray(image)).convert("RGB"))


def fitted(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """An image of the form that a model reads.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        size: pixels S of a side; the image is stretched to it (bilinear, as in the library's processors).
        channels: C, 1 for grey or 3 for colours; the image is converted.

    Returns:
        uint8 (S, S, C).
    """
    colours = 1 if image.ndim == 2 else image.shape[2]
    if image.shape[:2] != (size, size) or colours != channels:
        module = _pillow("Image")
        picture = module.fromarray(image).convert("L" if channels == 1 else "RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), module.Resampling.BILINEAR)
        image = np.asarray(picture)
    return image.reshape(size, size, channels)
