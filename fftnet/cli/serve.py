"""``fftnet serve``: flags for the server in ``fftnet.serving``."""

import sys
from collections.abc import Sequence

import torch

from fftnet.api import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.data.errors import import_extra
from fftnet.serving.config import ServeConfig


def run(argv: Sequence[str]) -> None:
    """Serve a trained model over HTTP, in the shape of OpenAI's interface."""
    (source, config), _ = parse("serve", argv, (ModelConfig, ServeConfig))
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        import_extra(package, "fftnet serve", "serve")
    # Imported here because it needs these packages, which not everybody has.
    from fftnet.serving.app import bind, serve

    path = find_checkpoint(source.checkpoint)
    with bind(config) as listener:
        model, tokenizer = load_checkpoint(path, device=source.device)
        if not model.config.causal:
            raise UsageError(f"{path} is bidirectional and can't write; train a model with causal=True")
        # oneDNN's GELU takes longer to set up than to compute at one token; see also fftnet generate.
        torch.backends.mkldnn.enabled = False  # pyright: ignore[reportAttributeAccessIssue]
        host = f"[{config.host}]" if ":" in config.host else config.host
        address = f"http://{host}:{listener.getsockname()[1]}"

        def ready() -> None:
            print(f"{path}: {model.num_parameters():,} parameters", file=sys.stderr)
            print(f"serving {config.name} at {address}/v1 (Ctrl-C ends it)", file=sys.stderr, flush=True)

        serve(model, tokenizer, config, listener, ready)
