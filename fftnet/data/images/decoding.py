"""Image files to arrays and arrays to one form, by Pillow."""

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
"""File extensions recognized as images; other files are ignored."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; its other readers run programs or unpack containers."""
MAX_PIXELS = 2**26
"""Maximum pixels of an image, and of all images that are decoded at the same time: about 1 GB."""
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
    """Read size and mode of an image, without its pixels.

    Raises:
        DataError: if the file is missing, no image, or has more than ``MAX_PIXELS`` pixels.
    """
    with _opened(path) as image:
        return Header((image.height, image.width), image.mode in GREY_MODES)


def decode(path: Path) -> np.ndarray:
    """Read an image as it is meant to be seen: see ``image_array``.

    Raises:
        DataError: if the file is missing, damaged, cut short, too large or no image.
    """
    with _opened(path) as image:
        # In place, which saves a copy of most images.
        _pillow("ImageOps").exif_transpose(image, in_place=True)
        return _array(image)


def image_array(image: "Image", name: str) -> np.ndarray:
    """Convert an image of Pillow: turned as the camera was held, on white where it is not opaque.

    Args:
        image: of any mode but floating-point.
        name: for messages.

    Returns:
        uint8 (H, W) of a grey image, else (H, W, 3).

    Raises:
        DataError: if its file is damaged, or it has more than ``MAX_PIXELS`` pixels.
    """
    with _readable(name):
        _check_size(image, name)
        return _array(_pillow("ImageOps").exif_transpose(image))


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """Open an image of a known format and size."""
    with _readable(str(path)), _pillow("Image").open(path) as image:
        if image.format not in FORMATS:
            raise DataError(f"{path} is a {image.format} file: convert it to PNG or JPEG, or take it away")
        _check_size(image, str(path))
        yield image


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn everything that goes wrong while an image is read into a sentence with its name."""
    module = _pillow("Image")
    try:
        yield
    except DataError:
        raise
    except module.UnidentifiedImageError as error:
        raise DataError(f"{name} is no image: repair it or take it away") from error
    except (module.DecompressionBombError, module.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    # The readers of the many formats have no common error for damage.
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        raise DataError(f"{name} can't be read as an image ({reason}): repair it or take it away") from error


def _check_size(image: "Image", name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)


def _too_large(name: str) -> DataError:
    return DataError(f"{name} has more than {MAX_PIXELS / 1e6:.0f} million pixels: make it smaller")


def _array(image: "Image") -> np.ndarray:
    if image.mode in DEEP_MODES:
        return np.clip(np.asarray(image) >> 8, 0, WHITE).astype(np.uint8)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no white")
    grey = image.mode in GREY_MODES
    if "A" in image.getbands() or image.mode == "La" or "transparency" in image.info:
        image = _on_white(_converted(image, "RGBA"))
    return np.asarray(_converted(image, "L" if grey else "RGB"))


def _converted(image: "Image", mode: str) -> "Image":
    """Convert to a mode, without a copy of an image that has it."""
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: "Image") -> "Image":
    module = _pillow("Image")
    return module.alpha_composite(module.new("RGBA", image.size, (WHITE,) * 4), image)


def without_alpha(image: np.ndarray) -> np.ndarray:
    """Put an image of shape (H, W, 4) on white: uint8 (H, W, 3); return any other as it is."""
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
        picture = _converted(module.fromarray(image), "L" if channels == 1 else "RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), module.Resampling.BILINEAR)
        image = np.asarray(picture)
    return image.reshape(size, size, channels)
