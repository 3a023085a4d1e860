"""``fftnet compress``: flags and files of ``fftnet.api.compression``, also for ``fftnet decompress``."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from fftnet.api.compression import MAX_STREAMS, compress
from fftnet.api.load import find_checkpoint, load_checkpoint
from fftnet.cli.flags import UsageError, parse
from fftnet.fields import check_fields, check_range, documented
from fftnet.training.memory import keep_freed_memory

SUFFIX = ".fftnet"
"""End of the names of compressed files."""


@documented
@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """Files and model of ``fftnet compress`` and ``fftnet decompress``."""

    file: str | None = None
    """Input file."""
    model: str = "models/shakespeare"
    """Checkpoint of a causal language model over bytes. Decompress with the same one, on the same processor
    and backend: otherwise the checksums do not match, and nothing is written."""
    output: str | None = None
    """Output file (default: FILE.fftnet when compressing, FILE without .fftnet when decompressing)."""
    overwrite: bool = False
    """Replace an existing output file."""
    streams: int | None = None
    """Parts of the file that the model reads at once: more are faster and compress less (default: one for
    every 4,096 bytes, at most 128)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_STREAMS, "streams")


def run(argv: Sequence[str]) -> None:
    """Compress a file with a language model."""
    (config,), _ = parse("compress", argv, (CompressionConfig,))
    if config.file is None:
        raise UsageError("name a file to compress: fftnet compress FILE")
    output = config.output or f"{config.file}{SUFFIX}"
    convert(config, Path(config.file), Path(output), partial(compress, streams=config.streams))


def convert(config: CompressionConfig, path: Path, output: Path, work: Callable[..., None]) -> None:
    """Let ``work`` write a file from another one, and print the sizes and the speed.

    Raises:
        UserError: if a file can't be read or written, or as ``work``. Then there is no output file.
    """
    _check_files(path, output, overwrite=config.overwrite)
    keep_freed_memory()
    model, _ = load_checkpoint(find_checkpoint(config.model), device="cpu")
    start = time.perf_counter()
    # A terminal is kept up to date; a log file gets a line a minute.
    pause = 0.1 if sys.stderr.isatty() else 60.0
    with tqdm(total=0, unit="B", unit_scale=True, mininterval=pause, dynamic_ncols=True) as bar:

        def advance(new: int, total: int) -> None:
            bar.total = total
            bar.update(new)

        try:
            with path.open("rb") as source, _written(output) as sink:
                work(model, source, sink, progress=advance)
            sizes = [file.stat().st_size for file in (path, output)]
        except OSError as error:
            raise UsageError(f"{output} could not be made of {path}: {error.strerror or error}") from error
    before, after = sizes
    line = f"{output}: {before:,} bytes in, {after:,} bytes out"
    # The total is the length of the original file, which is one of the two.
    if bar.total:
        bits = 8 * (before + after - bar.total) / bar.total
        line += f", {bits:.3f} bits per byte, {bar.total / (time.perf_counter() - start):,.0f} bytes/s"
    print(line, flush=True)


def _check_files(path: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse files that can't be read or should not be replaced, before anything is computed."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file: name one that exists")
    if not output.parent.is_dir():
        raise UsageError(f"output must lie in a folder that exists, got {str(output)!r}")
    if not os.path.lexists(output):
        return
    if output.exists() and output.samefile(path):
        raise UsageError(f"output must not be the input, got {str(output)!r}")
    if not output.is_file():
        raise UsageError(f"{output} is not a regular file: choose another --output")
    if not overwrite:
        raise UsageError(f"{output} exists: add --overwrite to replace it, or choose another --output")


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when it is complete; after an error nothing is left."""
    # A rename within a folder replaces an older file at once. No other file can have this name.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    sink = unfinished.open("xb")
    try:
        with sink:
            yield sink
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
