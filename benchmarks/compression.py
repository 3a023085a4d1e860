"""Lossless compression of texts: a language model compared with xz, bzip2 and zstd.

Run ``python -m benchmarks.compression TEXT ... --model FOLDER``. It prints bits per byte and speed as a table
for each text. Every side restores the text, which is compared. All sides run on one thread.
"""

import argparse
import bz2
import io
import lzma
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import machine
from fftnet.api.compression import compress, decompress
from fftnet.api.load import load
from fftnet.errors import UserError
from fftnet.model.fftnet_model import FFTNet

OURS = "FFTNet"
ZSTD = "zstd -19"


class Side(NamedTuple):
    """A compressor of bytes, and its inverse."""

    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


class Result(NamedTuple):
    """Size and speeds of a side on a text."""

    side: str
    bits_per_byte: float
    compress_speed: float
    """Bytes of the text per second."""
    decompress_speed: float

    def markdown(self) -> str:
        """Return a row of a table."""
        speeds = f"{self.compress_speed:,.0f} | {self.decompress_speed:,.0f}"
        return f"| {self.side} | {self.bits_per_byte:.3f} | {speeds} |"


def _through(convert: Callable[..., None], data: bytes) -> bytes:
    sink = io.BytesIO()
    convert(source=io.BytesIO(data), sink=sink)
    return sink.getvalue()


def _pipe(words: Sequence[str], data: bytes) -> bytes:
    return subprocess.run(words, input=data, check=True, capture_output=True).stdout


def sides(model: FFTNet, streams: int | None = None) -> dict[str, Side]:
    """Return all compressors by name; zstd only if its program is installed."""
    found = {
        OURS: Side(
            partial(_through, partial(compress, model, streams=streams)),
            partial(_through, partial(decompress, model)),
        ),
        "xz -9e": Side(partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        "bzip2 -9": Side(partial(bz2.compress, compresslevel=9), bz2.decompress),
    }
    if shutil.which("zstd") is not None:
        words = ("zstd", "-q", "-c", "--single-thread")
        found[ZSTD] = Side(partial(_pipe, (*words, "-19")), partial(_pipe, (*words, "-d")))
    return found


def measure(data: bytes, compressors: dict[str, Side]) -> Iterator[Result]:
    """Compress and restore a text with each side; RuntimeError if it is not restored."""
    for name, side in compressors.items():
        start = time.perf_counter()
        compressed = side.compress(data)
        middle = time.perf_counter()
        restored = side.decompress(compressed)
        end = time.perf_counter()
        if restored != data:
            raise RuntimeError(f"{name} did not restore the text")
        bits = 8 * len(compressed) / len(data)
        yield Result(name, bits, len(data) / (middle - start), len(data) / (end - middle))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status: 0, or 1 after one sentence about the error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT", help="files to compress")
    parser.add_argument("--model", default="models/shakespeare", help="checkpoint of the language model")
    parser.add_argument("--streams", type=int, help="streams of the language model (default: its own choice)")
    parser.add_argument("--bytes", type=int, help="read only so many bytes of each text (default: all)")
    flags = parser.parse_args(argv)
    try:
        model, _ = load(flags.model, device="cpu")
        compressors = sides(model, flags.streams)
        texts = {path: path.read_bytes()[: flags.bytes] for path in flags.texts}
        if not all(texts.values()):
            raise ValueError("a text is empty, name others")
        # The first steps compile kernels.
        compressors[OURS].compress(bytes(2))
        print(machine())
        for path, data in texts.items():
            print(f"\n{path}, {len(data):,} bytes; speeds in bytes per second\n")
            print("| | bits per byte | compress | decompress |\n|---|---:|---:|---:|")
            for result in measure(data, compressors):
                print(result.markdown(), flush=True)
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if ZSTD not in compressors:
        print(f"\n{ZSTD} is left out: the program zstd is not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
