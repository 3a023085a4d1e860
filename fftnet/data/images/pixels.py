"""Images by their number, read when they are asked for: files, arrays in memory, parts of either."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fftnet.data.errors import DataError
from fftnet.data.images.decoding import MAX_PIXELS, Header, decode, fitted, without_alpha

READ_AT_ONCE = 256
"""Images that are read as a group: to be measured, or from files of similar sizes."""
MAX_THREADS = min((os.cpu_count() or 1) + 4, 32)
"""Threads that decode small images."""
CHANNELS = (1, 3, 4)
"""Numbers of channels of an image: grey, colours, colours and opacity."""


class Pixels(ABC):
    """Images by their number; they are read when they are asked for."""

    size: tuple[int, int] | None
    """Height and width of all images; None where they differ."""
    grey: bool
    """Whether no image has colours."""

    @abstractmethod
    def __len__(self) -> int:
        """Images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls an image."""

    @abstractmethod
    def key(self, index: int) -> bytes:
        """Return what tells an image from others and stays when others are added.

        It is the content of an image in memory, and folder, name and size of a file.
        """

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """One image as it is, uint8 (H, W) or (H, W, 3); DataError if it can't be read."""

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form.

        Args:
            indices: integers (B,).
            size: pixels S of a side that they are resized to.
            channels: C, 1 for grey or 3 for colours, to which they are converted.

        Returns:
            uint8 (B, S, S, C).

        Raises:
            DataError: naming an image that can't be read.
        """
        images = np.empty((len(indices), size, size, channels), dtype=np.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = fitted(self.image(index), size, channels)
        return images


class ImageFiles(Pixels):
    """Files, of which only the headers have been read.

    Args:
        paths: of the images.
        headers: of the same images.
    """

    def __init__(self, paths: Sequence[Path], headers: Sequence[Header]) -> None:
        self._paths = paths
        self._areas = np.array([height * width for (height, width), _ in headers])
        sizes = {header.size for header in headers}
        self.size = sizes.pop() if len(sizes) == 1 else None
        self.grey = all(header.grey for header in headers)

    def __len__(self) -> int:
        """Images."""
        return len(self._paths)

    def name(self, index: int) -> str:
        """The path."""
        return str(self._paths[index])

    def key(self, index: int) -> bytes:
        """Return the names of folder and file and the size; reading every file would take long."""
        path = self._paths[index]
        return os.fsencode(f"{path.parent.name}/{path.name}/{path.stat().st_size}")

    def image(self, index: int) -> np.ndarray:
        """One image as it is; DataError if it can't be read."""
        return decode(self._paths[index])

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form, as ``Pixels.read``; decoding leaves Python's lock, so that threads share it.

        Large images get fewer threads: together these decode at most ``MAX_PIXELS`` pixels at a time.
        """
        images = np.empty((len(indices), size, size, channels), dtype=np.uint8)

        def read_one(row: int) -> None:
            images[row] = fitted(self.image(int(indices[row])), size, channels)

        order = np.argsort(self._areas[indices], kind="stable")
        for start in range(0, len(order), READ_AT_ONCE):
            rows = order[start : start + READ_AT_ONCE]
            largest = max(int(self._areas[indices[rows[-1]]]), 1)
            with ThreadPoolExecutor(max(min(MAX_THREADS, MAX_PIXELS // largest), 1)) as pool:
                list(pool.map(read_one, rows.tolist()))
        return images


class ImageArray(Pixels):
    """Images in memory.

    Args:
        images: uint8 (N, H, W) or (N, H, W, C) with C of 1, 3 or 4 (colours and opacity).
        source: where they come from, for messages.

    Raises:
        DataError: if there is none, or dtype or shape is another one.
    """

    def __init__(self, images: np.ndarray, source: str) -> None:
        is_one = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in CHANNELS)
        if images.dtype != np.uint8 or not is_one or 0 in images.shape:
            raise DataError(
                f"{source}: images must be uint8 of shape (N, H, W) or (N, H, W, C) with C of 1, 3 or 4, got "
                f"{images.dtype} of shape {images.shape}"
            )
        self._images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
        self._source = source
        self.size = (images.shape[1], images.shape[2])
        self.grey = self._images.ndim == 3

    def __len__(self) -> int:
        """Images."""
        return len(self._images)

    def name(self, index: int) -> str:
        """Source and row, counted from 0."""
        return f"{self._source} row {index}"

    def key(self, index: int) -> bytes:
        """Return the pixels."""
        return self._images[index].tobytes()

    def image(self, index: int) -> np.ndarray:
        """One image as it is, on white where it is not opaque."""
        return without_alpha(self._images[index])

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form, as ``Pixels.read``; at once where they have it."""
        own = 1 if self.grey else self._images.shape[3]
        if self.size == (size, size) and own == channels:
            return self._images[indices].reshape(len(indices), size, size, channels)
        return super().read(indices, size, channels)


class ChosenImages(Pixels):
    """Some of other images.

    Args:
        pixels: the others.
        rows: integers, which of them.
    """

    def __init__(self, pixels: Pixels, rows: np.ndarray) -> None:
        self._pixels = pixels
        self._rows = rows
        self.size = pixels.size
        self.grey = pixels.grey

    def __len__(self) -> int:
        """Images."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """Their name among the others."""
        return self._pixels.name(int(self._rows[index]))

    def key(self, index: int) -> bytes:
        """Return their key among the others."""
        return self._pixels.key(int(self._rows[index]))

    def image(self, index: int) -> np.ndarray:
        """One image as it is; DataError if it can't be read."""
        return self._pixels.image(int(self._rows[index]))

    def read(self, indices: np.ndarray, size: int, channels: int) -> np.ndarray:
        """Images of one form, as ``Pixels.read``."""
        return self._pixels.read(self._rows[indices], size, channels)


class JoinedImages(Pixels):
    """Images one after the other.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Pixels]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        sizes = {part.size for part in parts}
        self.size = sizes.pop() if len(sizes) == 1 else None
        self.grey = all(part.grey for part in parts)

    def __len__(self) -> int:
        """Images."""
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """Their name in their part."""
        part, place = self._place(index)
        return part.name(place)

    def key(self, index: int) -> bytes:
        """Return their key in their part."""
        part, place = self._place(index)
        return part.key(place)

    def image(self, index: int) -> np.ndarray:
        """One image as it is; DataError if it can't be read."""
        part, place = self._place(index)
        return part.image(place)

    def _place(self, index: int) -> tuple[Pixels, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        return part, index - int(self._ends[number]) + len(part)
