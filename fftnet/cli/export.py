"""``fftnet export``: flags for ``fftnet.export.export_model``."""

import sys
from collections.abc import Sequence

from fftnet.api.load import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, parse
from fftnet.export import ExportConfig, export_model


def run(argv: Sequence[str]) -> None:
    """Write a trained model as a folder that another runtime reads."""
    classes = (ModelConfig, ExportConfig)
    (source, config), _ = parse("export", argv, classes, without=("device",))
    path = find_checkpoint(source.checkpoint)
    model, tokenizer = load_checkpoint(path, device="cpu")
    print(f"{path}: {model.num_parameters():,} parameters", file=sys.stderr, flush=True)
    for file in export_model(model, tokenizer, config):
        print(f"{file}: {file.stat().st_size:,} bytes", flush=True)
