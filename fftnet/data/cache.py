"""Token files in a cache folder: a text is tokenized once, and later runs open its file at once."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fftnet.data.chunks import read_chunks
from fftnet.data.digest import TextDigest
from fftnet.data.errors import DataError
from fftnet.data.sources import TOKENS, SourceFile, resolve
from fftnet.data.split_view import TokenArrays
from fftnet.data.splits import segments
from fftnet.data.token_file import TokenFile, open_tokens, write_tokens
from fftnet.data.tokenization import progress_bar, tokenize_parts
from fftnet.locks import locked
from fftnet.protocols import TextEncoder

DEFAULT_CACHE = "fftnet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenCache:
    """The token file of some sources under one tokenizer."""

    sources: Sequence[str]
    """Words of ``--data``."""
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
        return (Path(self.directory) if self.directory else user_cache()) / name

    def resolve(self) -> list[SourceFile]:
        """The files of the sources.

        Raises:
            DataError: if one is not there; if its tokens still are, the sentence says how to use them.
        """
        try:
            return resolve(self.sources)
        except DataError as error:
            try:
                open_tokens(self.path, self.tokenizer)
            except DataError:
                raise error from None
            raise DataError(
                f"{error}; its tokens are still in {self.path}: put the text back, or use them with "
                f"--data {self.path}"
            ) from None

    def open(self, files: Sequence[SourceFile]) -> TokenFile:
        """Map the token file, after making it where there is none that fits; the log says which and why.

        Raises:
            DataError: if a source can't be read or the file not be written; nothing half-written is left.
        """
        identity = _identity(files, self.text_field)
        with suppress(DataError):
            return self._open(identity)
        with _locked(self.path):
            try:
                return self._open(identity)
            except DataError as error:
                if self.path.exists():
                    logger.info("%s: tokenizing again", error)
            logger.info("tokenizing %s into %s", ", ".join(self.sources), self.path)
            try:
                text = TextDigest()
                parts = self._parts(files, identity, text)
                write_tokens(self.path, parts, self.tokenizer, identity, text.hexdigest)
            except OSError as error:
                raise _not_written(self.path, error) from error
        return self._open(identity)

    def _open(self, identity: str) -> TokenFile:
        file = open_tokens(self.path, self.tokenizer)
        if file.header.sources != identity:
            raise DataError(f"{self.path} was made before its sources changed")
        if file.header.text is None:
            raise DataError(f"{self.path} was made by an earlier version, without a digest of the text")
        return file

    def _parts(self, files: Sequence[SourceFile], identity: str, text: TextDigest) -> Iterator[TokenArrays]:
        with progress_bar(total_bytes(files)) as advance:
            chunks = text.follow(read_chunks(files, self.text_field, advance))
            yield from tokenize_parts(segments(chunks), self.tokenizer)
        if _identity(files, self.text_field) != identity:
            raise DataError(f"{', '.join(self.sources)} changed while it was read: run again")


def total_bytes(files: Sequence[SourceFile]) -> int | None:
    """Bytes of all files, None where one does not say."""
    sizes = [file.size for file in files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _identity(files: Sequence[SourceFile], text_field: str) -> str:
    digest = hashlib.sha256(text_field.encode())
    for file in files:
        try:
            digest.update(json.dumps(file.identity).encode())
        except OSError as error:
            raise DataError(f"{file.name} can't be read: {error.strerror}") from error
    return digest.hexdigest()


def user_cache() -> Path:
    """The folder of this package in the cache folder of the user, which XDG_CACHE_HOME names."""
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
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_name(f"{path.name}.lock"), wait=True))
        except OSError as error:
            raise _not_written(path, error) from error
        yield
