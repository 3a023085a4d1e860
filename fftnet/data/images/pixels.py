"""Images from files and arrays, read when they are needed and converted to one form by Pillow."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
"""Formats that are read, by Pillow's names; its other readers run programs or unpack containers."""
MAX_PIXELS = 2**26
"""Maximum pixels of an image, and of all images that are decoded at the same time: about 1 GB."""
READ_AT_ONCE = 256
"""Maximum images that one pool of threads reads, and that are measured together."""
CHANNELS = (1, 3, 4)
"""Numbers of channels of an image: grey, colours, colours and opacity."""
DEEP_MODES = frozenset(("I", "I;16", "I;16B", "I;16L"))
"""Pillow's modes for grey values of 16 bits."""
GREY_MODES = DEEP_MODES | {"1", "L", "LA", "La"}
WHITE = 255


class LazyImage(NamedTuple):
    """An image of which only name, size and colours are known until its pixels are needed."""

    name: str
    """Path, or source and row, for messages."""
    content: Path | np.ndarray
    """File, or uint8 pixels (H, W) or (H, W, C) with C of 3 or 4."""
    size: tuple[int, int]
    """Height and width in pixels, before the orientation of a photo is applied."""
    grey: bool
    """True for an image without colours."""

    def key(self) -> bytes:
        """Return bytes that identify the image and stay the same when other images are added."""
        if isinstance(self.content, Path):
            path = self.content
            # Reading every file would take long.
            return os.fsencode(f"{path.parent.name}/{path.name}/{path.stat().st_size}")
        return self.content.tobytes()

    def pixels(self) -> np.ndarray:
        """Return uint8 pixels (H, W) or (H, W, 3), upright and on white."""
        if not isinstance(self.content, Path):
            has_alpha = self.content.ndim == 3 and self.content.shape[2] == 4
            return _array(_pillow("Image").fromarray(self.content)) if has_alpha else self.content
        with _opened(self.content) as image:
            # In place, which saves a copy of most images.
            _pillow("ImageOps").exif_transpose(image, in_place=True)
            return _array(image)


def lazy_files(paths: Sequence[Path]) -> list[LazyImage]:
    """Return images of files, of which only the headers are read."""

    def read_header(path: Path) -> LazyImage:
        with _opened(path) as image:
            return LazyImage(str(path), path, (image.height, image.width), image.mode in GREY_MODES)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_header, paths))


def lazy_rows(images: np.ndarray, source: str) -> list[LazyImage]:
    """Return the images of an array of ``source``, which are views of it."""
    valid = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in CHANNELS)
    if images.dtype != np.uint8 or not valid or 0 in images.shape:
        raise DataError(
            f"{source}: images must be uint8 of shape (N, H, W) or (N, H, W, C) with C of 1, 3 or 4, got "
            f"{images.dtype} of shape {images.shape}"
        )
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    size = (images.shape[1], images.shape[2])
    return [LazyImage(f"{source} row {n}", image, size, images.ndim == 3) for n, image in enumerate(images)]


def read_images(images: Sequence[LazyImage], size: int, channels: int) -> np.ndarray:
    """Read B images and convert them to uint8 (B, S, S, C), with the side S and C of 1 or 3 channels."""
    # Images in memory usually have the form already: no thread, and no copy but one.
    shape = (size, size) if channels == 1 else (size, size, channels)
    contents = [image.content for image in images]
    ready = [content for content in contents if isinstance(content, np.ndarray) and content.shape == shape]
    if len(ready) == len(images) > 0:
        return np.stack(ready).reshape(-1, size, size, channels)
    pixels = np.empty((len(images), size, size, channels), dtype=np.uint8)

    def read_one(row: int) -> None:
        pixels[row] = fitted(images[row].pixels(), size, channels)

    # Decoding releases Python's lock, so that threads share the work. Images of like size are read together:
    # the larger they are, the fewer threads run, so that these never hold more than MAX_PIXELS at a time.
    areas = np.array([height * width for _, _, (height, width), _ in images], dtype=np.int64)
    order = areas.argsort(kind="stable")
    for start in range(0, len(order), READ_AT_ONCE):
        rows = order[start : start + READ_AT_ONCE].tolist()
        most = MAX_PIXELS // max(int(areas[rows[-1]]), 1)
        with ThreadPoolExecutor(max(min((os.cpu_count() or 1) + 4, 32, most), 1)) as pool:
            list(pool.map(read_one, rows))
    return pixels


def fitted(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Convert an image, uint8 (H, W) or (H, W, 3), to the form of a model, (S, S, C)."""
    own_channels = 1 if image.ndim == 2 else image.shape[2]
    if image.shape[:2] != (size, size) or own_channels != channels:
        module = _pillow("Image")
        picture = _converted(module.fromarray(image), "L" if channels == 1 else "RGB")
        # Stretched as the processors of Transformers do.
        if picture.size != (size, size):
            picture = picture.resize((size, size), module.Resampling.BILINEAR)
        image = np.asarray(picture)
    return image.reshape(size, size, channels)


def image_array(image: "Image", name: str) -> np.ndarray:
    """Convert an image of Pillow to uint8 (H, W) or (H, W, 3): upright, and on white where transparent."""
    # Not in place: the image belongs to the caller.
    with _readable(name):
        _check_size(image, name)
        return _array(_pillow("ImageOps").exif_transpose(image))


def _pillow(name: str) -> Any:
    """Import a module of Pillow, which is an optional package."""
    return import_extra(f"PIL.{name}", "reading and resizing images", "images")


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """Open an image file, and check format and size before any pixel is decoded."""
    with _readable(str(path)), _pillow("Image").open(path) as image:
        # The format is that of the content: a suffix proves nothing.
        if image.format not in FORMATS:
            raise DataError(f"{path} is a {image.format} file: convert it to PNG or JPEG, or remove it")
        _check_size(image, str(path))
        yield image


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn every failure of a reader into a ``DataError`` that names the image."""
    module = _pillow("Image")
    try:
        yield
    except DataError:
        raise
    except module.UnidentifiedImageError as error:
        raise DataError(f"{name} is no image: repair it or remove it") from error
    except (module.DecompressionBombError, module.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    # The readers of the many formats have no common error for damage.
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        raise DataError(f"{name} can't be read as an image ({reason}): repair it or remove it") from error


def _check_size(image: "Image", name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)


def _too_large(name: str) -> DataError:
    return DataError(f"{name} has more than {MAX_PIXELS / 1e6:.0f} million pixels: make it smaller")


def _array(image: "Image") -> np.ndarray:
    """Return uint8 (H, W) of a grey image of Pillow, else (H, W, 3)."""
    # Pillow would clip 16 bits to 8 instead of scaling them.
    if image.mode in DEEP_MODES:
        return np.clip(np.asarray(image) >> 8, 0, WHITE).astype(np.uint8)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and their value of white is unknown")
    grey = image.mode in GREY_MODES
    if "A" in image.getbands() or image.mode == "La" or "transparency" in image.info:
        # Transparency may be a palette entry or a colour: RGBA is the one mode that holds every kind.
        module = _pillow("Image")
        white = module.new("RGBA", image.size, (WHITE,) * 4)
        image = module.alpha_composite(white, _converted(image, "RGBA"))
    return np.asarray(_converted(image, "L" if grey else "RGB"))


def _converted(image: "Image", mode: str) -> "Image":
    """Convert to a mode, without a copy of an image that already has it."""
    return image if image.mode == mode else image.convert(mode)
