"""``fftnet decompress``: flags for ``fftnet.api.compression.decompress``."""

from collections.abc import Sequence
from pathlib import Path

from fftnet.api.compression import decompress
from fftnet.cli.compress import SUFFIX, CompressionConfig, convert
from fftnet.cli.flags import UsageError, parse


def run(argv: Sequence[str]) -> None:
    """Restore a file that ``fftnet compress`` made."""
    (config,), _ = parse("decompress", argv, (CompressionConfig,), without=("streams",))
    if config.file is None:
        raise UsageError("name a file to decompress: fftnet decompress FILE")
    path = Path(config.file)
    if config.output is None and path.suffix != SUFFIX:
        raise UsageError(f"{path} does not end in {SUFFIX}: name the output with --output")
    convert(config, path, Path(config.output or path.with_suffix("")), decompress)
