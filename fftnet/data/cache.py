"""Text of any size, tokenized once, in parallel, into a file that later runs open at once."""

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fftnet.data.documents import SECTION, TOKENS, DataError, Origin, Section, find, sections
from fftnet.data.token_file import (
    HEADER_BYTES,
    VERSION,
    Header,
    TextEncoder,
    TokenFile,
    header_bytes,
    open_tokens,
)

UNITS_AT_LEAST = 400
"""A document longer than this part of all text is cut into units, so that every split gets some."""
SECTIONS_OF_UNKNOWN = 64
"""Sections in a unit where the size of the text is not known beforehand."""
DEFAULT_CACHE = "fftnet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenCache:
    """The token file of some sources under one tokenizer."""

    sources: Sequence[str]
    text_field: str
    tokenizer: TextEncoder
    directory: str | None = None
    """None: fftnet in the user's cache folder, which XDG_CACHE_HOME names."""

    @cached_property
    def path(self) -> Path:
        """Where the token file is or will be; it depends on the names of sources and tokenizer only."""
        places = [os.path.abspath(source) for source in self.sources]
        key = json.dumps([places, self.sources, self.text_field, self.tokenizer.name])
        stem = "".join(c if c.isalnum() else "-" for c in Path(self.sources[0]).stem)[:40]
        name = f"{stem}-{self.tokenizer.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{TOKENS}"
        return (Path(self.directory) if self.directory else _user_cache()) / name

    def find(self) -> list[Origin]:
        """The sources.

        Raises:
            DataError: if one is not there; if its tokens still are, the sentence says how to use them.
        """
        try:
            return find(self.sources)
        except DataError as error:
            try:
                open_tokens(self.path, self.tokenizer)
            except DataError:
                raise error from None
            raise DataError(
                f"{error}; its tokens are still in {self.path}: put the text back, or use them with "
                f"--data {self.path}"
            ) from None

    def open(self, origins: Sequence[Origin]) -> TokenFile:
        """Map the token file, after making it where there is none that fits; the log says which and why.

        Raises:
            DataError: if a source can't be read or the file not be written; nothing half-written is left.
        """
        identity = _identity(origins, self.text_field)
        with suppress(DataError):
            return self._open(identity)
        with _locked(self.path):
            try:
                return self._open(identity)
            except DataError as error:
                if self.path.exists():
                    logger.info("%s: tokenizing again", error)
            self._write(origins, identity)
        return self._open(identity)

    def _open(self, identity: str) -> TokenFile:
        file = open_tokens(self.path, self.tokenizer)
        if file.header.sources != identity:
            raise DataError(f"{self.path} was made before its sources changed")
        return file

    def _write(self, origins: Sequence[Origin], identity: str) -> None:
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        logger.info("tokenizing %s into %s", ", ".join(self.sources), self.path)
        dtype = np.dtype(np.uint16 if self.tokenizer.vocab_size <= 2**16 else np.uint32)
        try:
            with temporary.open("wb") as file, tempfile.TemporaryFile(dir=temporary.parent) as units:
                file.write(bytes(HEADER_BYTES))
                file.write(np.array([self.tokenizer.eot], dtype).tobytes())
                num_tokens, num_units = 1, 0
                for ids, lasts in _encoded(origins, self.text_field, self.tokenizer, dtype):
                    file.write(ids.data)
                    units.write((lasts + np.uint64(2 * num_tokens)).tobytes())
                    num_tokens, num_units = num_tokens + len(ids), num_units + len(lasts)
                if _identity(origins, self.text_field) != identity:
                    raise DataError(f"{', '.join(self.sources)} changed while it was read: run again")
                header = Header(
                    VERSION, self.tokenizer.fingerprint, identity, dtype.name, num_tokens, num_units
                )
                file.write(bytes(header.units_at - file.tell()))
                units.seek(0)
                shutil.copyfileobj(units, file)
                file.seek(0)
                file.write(header_bytes(header))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise _not_written(self.path, error) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def total_bytes(origins: Sequence[Origin]) -> int | None:
    """Bytes of all sources, None where one does not say."""
    sizes = [origin.size for origin in origins]
    return None if None in sizes else sum(size or 0 for size in sizes)


def in_units(origins: Sequence[Origin], read: Iterator[Section]) -> Iterator[tuple[Section, bool]]:
    """Sections, and whether a unit ends with each: at a document's end, and within a very long one."""
    size = total_bytes(origins)
    most = SECTIONS_OF_UNKNOWN if size is None else max(1, size // (UNITS_AT_LEAST * SECTION))
    held = 0
    for section in read:
        held += 1
        ends = section.last or held == most
        yield section, ends
        held = 0 if ends else held


def _encoded(
    origins: Sequence[Origin], text_field: str, tokenizer: TextEncoder, dtype: np.dtype
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and the ends of units within them, chunk by chunk in order, encoded by all processors."""
    # A terminal is kept up to date; a log file gets a line a minute.
    pause = 0.1 if sys.stderr.isatty() else 60.0
    workers = os.cpu_count() or 1
    waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
    bar = tqdm(total=total_bytes(origins), unit="B", unit_scale=True, mininterval=pause, dynamic_ncols=True)
    with bar, ThreadPoolExecutor(workers) as pool:
        read = (s for origin in origins for s in sections(origin, text_field, bar.update))
        for chunk in _chunks(in_units(origins, read)):
            waiting.append(pool.submit(_encode, chunk, tokenizer, dtype))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _chunks(read: Iterator[tuple[Section, bool]]) -> Iterator[list[tuple[Section, bool]]]:
    chunk, size = [], 0
    for section, ends in read:
        chunk.append((section, ends))
        size += len(section.text)
        if size >= SECTION:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode(
    chunk: list[tuple[Section, bool]], tokenizer: TextEncoder, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    pieces, lasts, length = [], [], 0
    for section, ends in chunk:
        try:
            pieces.append(tokenizer.encode_array(section.text).astype(dtype))
        except ValueError as error:
            raise DataError(f"{section.name}: {error}") from error
        if section.last:
            pieces.append(np.array([tokenizer.eot], dtype))
        length += len(pieces[-1]) if not section.last else len(pieces[-2]) + 1
        if ends:
            lasts.append(2 * length + section.last)
    return np.concatenate(pieces), np.array(lasts, np.uint64)


def _identity(origins: Sequence[Origin], text_field: str) -> str:
    digest = hashlib.sha256(text_field.encode())
    for origin in origins:
        try:
            digest.update(json.dumps(origin.identity).encode())
        except OSError as error:
            raise DataError(f"{origin.name} can't be read: {error.strerror}") from error
    return digest.hexdigest()


def _user_cache() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / DEFAULT_CACHE


def _not_written(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the token file {path} could not be written ({error.strerror}): free some space or choose another "
        "--cache_dir; nothing half-written is left"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make the file; the others wait and find it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise _not_written(path, error) from error
    with lock:
        # Not every system and file system has locks; without one, the work may be done twice.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
