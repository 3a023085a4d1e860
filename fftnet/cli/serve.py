"""``fftnet serve``: flags for the server in ``fftnet.serving``."""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address

import torch

from fftnet.api.load import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.data.errors import import_extra
from fftnet.serving.config import ServeConfig

KEY = "FFTNET_API_KEY"
"""Environment variable with the API key."""


def run(argv: Sequence[str]) -> None:
    """Serve a trained model over HTTP, in the shape of OpenAI's interface."""
    (source, config), _ = parse("serve", argv, (ModelConfig, ServeConfig))
    config = _with_key(config)
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        import_extra(package, "fftnet serve", "serve")
    # Imported here because it needs these packages, which not everybody has.
    from fftnet.serving.app import bind, serve

    path = find_checkpoint(source.checkpoint)
    # The port is bound before the model is loaded: a port in use is reported at once.
    with bind(config) as listener:
        model, tokenizer = load_checkpoint(path, device=source.device)
        if not model.config.causal:
            raise UsageError(f"{path} is bidirectional and can't write; train a model with causal=True")
        # oneDNN's GELU takes longer to set up than to compute at one token; see also fftnet generate.
        torch.backends.mkldnn.enabled = False  # pyright: ignore[reportAttributeAccessIssue]
        address, port = listener.getsockname()[:2]

        def ready() -> None:
            print(f"{path}: {model.num_parameters():,} parameters", file=sys.stderr)
            print("\n".join(_greeting(config, address, port)), file=sys.stderr, flush=True)

        serve(model, tokenizer, config, listener, ready)


def _with_key(config: ServeConfig) -> ServeConfig:
    if config.api_key is not None or not os.environ.get(KEY):
        return config
    try:
        return replace(config, api_key=os.environ[KEY])
    except ValueError as error:
        raise UsageError(f"the environment variable {KEY} is wrong: {error}") from error


def _greeting(config: ServeConfig, address: str, port: int) -> Iterator[str]:
    """Yield the lines of the start: address, commands to copy, what to know."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    key = "none" if config.api_key is None else "KEY"
    header = "" if config.api_key is None else f" -H 'Authorization: Bearer {key}'"
    program = (
        f'from openai import OpenAI; print(OpenAI(base_url="{url}", api_key="{key}").completions.create('
        f'model={json.dumps(config.name)}, prompt="Once", max_tokens=100).choices[0].text)'
    )
    yield f"serving {config.name} at {url} (Ctrl-C ends it)"
    yield (
        f"try: curl {url}/completions -H 'Content-Type: application/json'{header} "
        """-d '{"prompt": "Once", "max_tokens": 100}'"""
    )
    yield f"  or: python -c {shlex.quote(program)}"
    yield "note: the model continues text and is not tuned for chats; it reads them as text (--chat_template)"
    if config.api_key is None and not ip_address(address).is_loopback:
        yield f"warning: anyone who reaches port {port} of this machine can use it: set --api_key or {KEY}"
