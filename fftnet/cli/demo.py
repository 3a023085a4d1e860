"""``fftnet demo``: flags for ``fftnet.demo``."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from fftnet.api.load import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, parse
from fftnet.demo import DemoConfig, make_page
from fftnet.demo.page import check_folder
from fftnet.demo.runtime_files import find_runtime, is_cached
from fftnet.demo.server import PageServer
from fftnet.serialization import CheckpointError

SHIPPED = Path("models/shakespeare")
"""Model of the repository, the default if no model was trained."""


def run(argv: Sequence[str]) -> None:
    """Make a static page that runs a trained model in the browser, and serve it."""
    classes = (ModelConfig, DemoConfig)
    (source, config), _ = parse("demo", argv, classes, without=("device",))
    path = _find(source.checkpoint)
    check_folder(Path(config.output))
    with PageServer(config) if config.serve else nullcontext() as server:
        if config.runtime_files is None and not is_cached():
            print("downloading the runtime of the page once, 33 MB", file=sys.stderr, flush=True)
        runtime = find_runtime(config.runtime_files)
        model, tokenizer = load_checkpoint(path, device="cpu")
        print(f"{path}: {model.num_parameters():,} parameters", file=sys.stderr, flush=True)
        folder = make_page(model, tokenizer, config, runtime)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {size:,} bytes, for any host of static files", flush=True)
        if server is not None:
            print(f"{server.url} (Ctrl-C ends it)", flush=True)
            with suppress(KeyboardInterrupt):
                server.serve_forever()


def _find(named: str | None) -> Path:
    if named is not None:
        return find_checkpoint(named)
    try:
        return find_checkpoint()
    except CheckpointError:
        # A damaged checkpoint is reported instead of replaced by the default.
        if any(Path("outputs").rglob("config.json")) or not SHIPPED.is_dir():
            raise
        return find_checkpoint(SHIPPED)
